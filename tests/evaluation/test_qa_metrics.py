"""Recall, differences and calibration in plain values."""

import numpy as np
import pytest

from realm_train.evaluation.bootstrap import Resamples
from realm_train.evaluation.qa_metrics import calibration, reading_measures, retrieval_measures, short, summarise


def test_recall_at_k_is_a_hit_among_the_k_best():
    hits = [(False, True), (True,) + (False,) * 30, (), (False,) * 19 + (True,)]
    measures = retrieval_measures(hits, k=20)
    assert {name: values.tolist() for name, values in measures.items()} == {
        "qa/recall@1": [0, 1, 0, 0],
        "qa/recall@5": [1, 1, 0, 0],
        "qa/recall@20": [1, 1, 0, 1],
    }
    assert "qa/recall@100" in retrieval_measures(hits, k=100) and not retrieval_measures(hits, k=0)


def test_a_summary_has_every_mean_and_the_difference_from_the_first():
    systems = {
        "a": reading_measures([True, False, True, True], [1.0, 0.5, 1.0, 1.0]),
        "b": reading_measures([False, False, True, True], [0.0, 0.0, 1.0, 1.0]) | {"qa/recall@1": np.ones(4)},
        "c": {"qa/recall@1": np.zeros(4)},
    }
    found = summarise(systems, Resamples(4, draws=400))
    assert found["a"]["qa/exact_match"]["mean"] == 0.75 and found["a"]["qa/f1"]["mean"] == 0.875
    assert found["a"]["qa/exact_match"]["low"] <= 0.75 <= found["a"]["qa/exact_match"]["high"]
    assert "difference" not in found["a"]["qa/exact_match"]
    assert found["b"]["qa/exact_match"]["difference"]["mean"] == -0.25
    assert found["b"]["qa/f1"]["difference"]["mean"] == -0.375
    assert "difference" not in found["b"]["qa/recall@1"], "the first does not have it"
    assert list(found["c"]) == ["qa/recall@1"]


def test_the_same_system_under_two_names_does_not_differ():
    values = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    found = summarise({"a": {"qa/f1": values}, "b": {"qa/f1": values}}, Resamples(5, draws=300))
    assert found["b"]["qa/f1"]["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    assert {name: found["b"]["qa/f1"][name] for name in ("mean", "low", "high")} == found["a"]["qa/f1"]


def test_calibration_says_mean_and_share_beside_the_error():
    found = calibration(np.array([0.2, 0.4]), np.array([True, False]))
    assert (found["mean_p"], found["observed"]) == (pytest.approx(0.3), 0.5)
    assert found["error"] == pytest.approx((0.8 + 0.4) / 2)
    assert sum(one["count"] for one in found["bins"]) == 2 and len(found["bins"]) == 10


def test_numbers_are_short_and_nothing_else_is_touched():
    assert short(1 / 3) == 0.333333 and short(np.float32(1e-9)) == 1e-9
    assert short(12) == 12 and isinstance(short(12), int) and short(None) is None and short(True) is True
