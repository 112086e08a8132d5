"""The refresh group of the configuration: what is in it, and what is refused before a run starts."""

import dataclasses

import pytest
from hydra.utils import instantiate

from realm_train.callbacks.refresh import MODES as CALLBACKS
from realm_train.callbacks.refresh_plan import MODES, RefreshPlan
from realm_train.command import CONF, compose
from realm_train.errors import BadInput


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_has_a_file_that_says_it_and_a_callback(mode):
    cfg = compose("train", "corpus=c", f"refresh={mode}").refresh
    plan = instantiate(cfg)
    assert plan.mode == mode and mode in CALLBACKS
    assert plan.beside == (mode in ("process", "job"))
    assert set(cfg) - {"_target_"} <= {field.name for field in dataclasses.fields(RefreshPlan)}


def test_there_is_no_file_without_a_mode():
    assert {path.stem for path in (CONF / "refresh").glob("*.yaml")} == set(MODES) == set(CALLBACKS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, r"refresh.every: got 0, expected at least 1 step"),
        ({"mode": "inline", "adopt_lag": 1}, r"refresh.adopt_lag: got 1 with refresh.mode=inline, which has no lag"),
        ({"mode": "rolling", "adopt_lag": 1}, r"with refresh.mode=rolling, which has no lag"),
        ({"every": 10, "adopt_lag": 0}, r"refresh.adopt_lag: got 0, expected 1 to refresh.every=10"),
        ({"every": 10, "adopt_lag": 11}, r"refresh.adopt_lag: got 11, expected 1 to refresh.every=10"),
        ({"every": 10, "max_age_steps": 10}, r"refresh.max_age_steps: got 10, expected more than refresh.every=10"),
    ],
)
def test_what_cannot_work_is_refused_at_once(settings, message):
    with pytest.raises(BadInput, match=message):
        RefreshPlan(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"every": 10, "adopt_lag": 1},
        {"every": 10, "adopt_lag": 10},
        {"every": 10, "max_age_steps": 11, "on_max_age": "fail"},
        {"mode": "inline", "every": 10, "max_age_steps": 5},
    ],
)
def test_what_can_just_work_is_taken(settings):
    assert RefreshPlan(**settings).every == 10
