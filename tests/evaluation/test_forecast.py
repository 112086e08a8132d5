"""The arithmetic of a plan: against what the index really holds, and against a clock that is played through."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch

from realm_train.evaluation.forecast import (
    Schedule,
    index_memory,
    rounded_up,
    smaller_plans,
    still_to_grow,
    vector_bytes,
)
from realm_train.index.exact import Exact

CPU = torch.device("cpu")


def schedule(**settings) -> Schedule:
    """A process that takes ten steps of a second each, unless told otherwise."""
    defaults = {"mode": "process", "every": 25, "refresh_seconds": 10.0, "poll_seconds": 0.0}
    return Schedule(**defaults | {"step_seconds": 1.0, "step_seconds_beside": 1.0} | settings)


def played(every: int, lag: int, steps: int = 5000) -> tuple[float, int]:
    """(mean interval of adoptions, oldest age) of a worker that takes the newest snapshot whenever it is free."""
    snapshot, busy_with, free_at, in_use = 0, None, 0, 0
    adopted, oldest = [], 0
    for step in range(1, steps):
        oldest = max(oldest, step - in_use)  # of the step that ends here
        if step % every == 0:
            snapshot = step
        if busy_with is not None and step == free_at:
            in_use, busy_with = busy_with, None
            adopted.append(step)
        if busy_with is None and snapshot > in_use:
            busy_with, free_at = snapshot, step + lag
    return float(np.diff(adopted).mean()), oldest


@pytest.mark.parametrize("every, seconds", [(25, 10), (25, 25), (10, 10), (7, 1), (100, 3)])
def test_where_the_interval_is_reached_age_and_interval_are_those_of_a_played_clock(every, seconds):
    planned = schedule(every=every, refresh_seconds=float(seconds))
    assert planned.reached
    interval, oldest = played(every, planned.lag)
    assert (interval, oldest) == (planned.interval, planned.max_age)


@pytest.mark.parametrize("every, seconds", [(10, 11), (10, 25), (3, 100), (1, 7), (24, 25)])
def test_where_it_is_not_the_worker_is_always_busy_and_no_vector_older_than_said(every, seconds):
    planned = schedule(every=every, refresh_seconds=float(seconds))
    assert not planned.reached and planned.shortest_every == seconds
    interval, oldest = played(every, planned.lag)
    assert interval == pytest.approx(planned.interval, rel=0.01)
    assert planned.max_age - every < oldest <= planned.max_age


def test_the_shortest_interval_is_reached_and_one_step_less_is_not():
    shortest = schedule(refresh_seconds=12.3).shortest_every
    assert schedule(every=shortest, refresh_seconds=12.3).reached
    assert not schedule(every=shortest - 1, refresh_seconds=12.3).reached


def test_steps_beside_a_worker_that_borrows_threads_are_fewer():
    assert schedule(refresh_seconds=30.0, step_seconds_beside=2.0).lag == 15
    assert schedule(refresh_seconds=30.0, poll_seconds=0.5).lag == 31


def test_inline_and_rolling_pay_the_refresh_in_steps():
    inline = schedule(mode="inline", every=20, refresh_seconds=40.0)
    assert 20 * inline.mean_step_seconds == 20 * 1.0 + 40.0
    rolling = schedule(mode="rolling", every=160, refresh_seconds=40.0)
    assert rolling.mean_step_seconds == 1.25 and rolling.max_age == 160 and rolling.reached


def test_a_lag_that_is_too_short_makes_training_wait_for_the_rest():
    exact = schedule(every=20, refresh_seconds=10.0, adopt_lag=4)
    assert (exact.lag, exact.shortest_lag, exact.max_age) == (4, 10, 24)
    assert 20 * exact.mean_step_seconds == pytest.approx(20 + 6)


@pytest.mark.parametrize("mean_length", [20.0, 1000.0])
def test_what_is_named_as_smaller_fits(mean_length):
    late = schedule(every=10, refresh_seconds=237.0)
    plans = smaller_plans(late, encoders=2, threads=1, mean_length=mean_length)
    (every,) = re.findall(r"^refresh\.every=(\d+)$", "\n".join(plans), re.M)
    assert schedule(every=int(every), refresh_seconds=237.0).reached
    (encoders,) = re.findall(r"plan\.devices=(\d+)", "\n".join(plans))
    assert schedule(every=10, refresh_seconds=237.0 * 2 / int(encoders)).reached
    (cycle,) = re.findall(r"rolling refresh\.every=(\d+)", "\n".join(plans))
    assert schedule(mode="rolling", every=int(cycle), refresh_seconds=237.0).mean_step_seconds <= 1.25
    shorter = re.findall(r"passages of (\d+) instead", "\n".join(plans))
    if shorter:
        assert schedule(every=10, refresh_seconds=237.0 * int(shorter[0]) / mean_length).reached
    assert bool(shorter) == (mean_length == 1000.0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vector_bytes_are_those_of_the_file_without_its_header(dtype):
    file = io.BytesIO()
    np.save(file, np.zeros((1000, 48), dtype))
    assert len(file.getvalue()) - 128 == vector_bytes(1000, 48, dtype)


@pytest.mark.parametrize("rest", ["float32", "float16"])
@pytest.mark.parametrize("held", [None, "float32", "float16", "bfloat16"])
def test_index_memory_is_what_an_exact_index_holds(rest, held, tmp_path):
    np.save(tmp_path / "embeddings.npy", np.ones((500, 16), rest))
    vectors = np.load(tmp_path / "embeddings.npy", mmap_mode="c")
    index = Exact(dtype=held).load(vectors, tmp_path, {"kind": "exact"}, CPU)
    forecast = index_memory(500, 16, rest=rest, held=held, on_gpu=False, written=False, swapped=False)
    in_place = index.vectors.data_ptr() == vectors.ctypes.data
    assert forecast["mapped" if in_place else "private"] == index.vectors.nbytes
    assert forecast["device"] == 0 and (forecast["private"] == 0) == in_place


def test_two_versions_are_held_while_they_are_swapped_and_written_rows_are_private():
    kind = {"rest": "float16", "held": None, "on_gpu": False}
    assert index_memory(10, 8, **kind, written=False, swapped=True)["mapped"] == 2 * 10 * 8 * 2
    written = index_memory(10, 8, **kind, written=True, swapped=False)
    assert written == {"private": 10 * 8 * 2, "mapped": 0, "device": 0}


def test_growth_is_the_sum_of_its_steps():
    peaks = [1000, 1100, 1200]
    by_hand = sum(100 * 0.5**step for step in range(1, 6))
    assert still_to_grow(peaks, steps_left=5, decay=0.5) == round(by_hand)
    assert still_to_grow(peaks, steps_left=10_000, decay=0.5) == 100
    assert (
        still_to_grow([7, 7, 7], steps_left=5)
        == still_to_grow(peaks, steps_left=0)
        == still_to_grow([5], steps_left=9)
        == 0
    )


@pytest.mark.parametrize("steps, rounded", [(1, 1), (14, 14), (101, 110), (237, 240), (240, 240), (12345, 13000)])
def test_rounded_up(steps, rounded):
    assert rounded_up(steps) == rounded
