"""Reliability against counting by hand."""

import numpy as np
import pytest

from realm_train.evaluation.calibration import reliability


def test_the_bins_are_those_of_counting_one_by_one():
    rng = np.random.default_rng(0)
    p = np.round(rng.random(300), 1)  # many on the borders
    happened = rng.random(300) < p
    found = reliability(p, happened)
    error = 0.0
    for number, one in enumerate(found.bins):
        inside = [
            place for place in range(300) if number * 1 < round(p[place] * 10) <= number + 1 or number == p[place] == 0
        ]
        assert one.count == len(inside)
        assert (round(one.low, 9), round(one.high, 9)) == (number / 10, (number + 1) / 10)
        if inside:
            mean, seen = np.mean(p[inside]), np.mean(happened[inside])
            assert (one.mean_p, one.observed) == (pytest.approx(mean), pytest.approx(seen))
            error += len(inside) / 300 * abs(mean - seen)
    assert found.error == pytest.approx(error) and error > 0


def test_what_is_always_right_has_no_error_and_certainty_that_is_wrong_has_all():
    half = np.array([0.5] * 10), np.array([True, False] * 5)
    assert reliability(*half).error == pytest.approx(0.0)
    assert reliability(np.ones(4), np.zeros(4, dtype=bool)).error == pytest.approx(1.0)
    assert reliability(np.zeros(4), np.zeros(4, dtype=bool)).error == pytest.approx(0.0)


def test_every_question_is_in_one_bin():
    p = np.array([0.0, 1e-12, 0.1, 0.1 + 1e-9, 0.9999999, 1.0, 1.0 + 1e-7])
    assert [one.count for one in reliability(p, p > 0.5).bins] == [3, 1, 0, 0, 0, 0, 0, 0, 0, 3]


def test_no_question_is_no_error():
    nothing = reliability(np.empty(0), np.empty(0, dtype=bool))
    assert nothing.error == 0.0 and all(one.mean_p is None for one in nothing.bins)
