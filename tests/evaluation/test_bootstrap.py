"""Intervals and p-values against what is known in closed form, and against brute force."""

import itertools
from math import erfc, sqrt

import numpy as np
import pytest

from realm_train.errors import BadInput
from realm_train.evaluation.bootstrap import Resamples, difference, interval


def resampled(*measures, draws=4000, seed=0):
    values = np.array(measures, dtype=np.float64)
    return Resamples(values.shape[1], draws=draws, seed=seed).means(values)


def test_the_interval_of_a_share_is_the_binomial_one():
    values = np.zeros(400)
    values[:120] = 1.0
    low, high = interval(resampled(values)[:, 0])
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert low == pytest.approx(0.3 - spread, abs=0.005) and high == pytest.approx(0.3 + spread, abs=0.005)


def test_the_mean_of_a_resample_is_the_mean_of_what_was_drawn():
    values = np.array([[1.0, 10.0, 100.0]])
    possible = {round(sum(drawn) / 3, 9) for drawn in itertools.product(values[0], repeat=3)}
    means = Resamples(3, draws=2000).means(values)[:, 0]
    assert set(means.round(9)) == possible


def test_all_systems_share_the_resamples():
    rng = np.random.default_rng(0)
    one = rng.random(50)
    means = resampled(one, one + 0.25)
    assert means[:, 1] - means[:, 0] == pytest.approx(0.25)
    assert np.ptp(means[:, 0]) > 0.05, "each alone varies, their difference does not"


def test_the_resamples_depend_on_the_seed_and_on_nothing_else(monkeypatch):
    values = np.random.default_rng(0).random((2, 70))
    whole = Resamples(70, draws=500, seed=3).means(values)
    assert (Resamples(70, draws=500, seed=3).means(values) == whole).all()
    assert (Resamples(70, draws=500, seed=4).means(values) != whole).any()
    monkeypatch.setattr("realm_train.evaluation.bootstrap.BLOCK", 70 * 7)
    assert Resamples(70, draws=500, seed=3).means(values) == pytest.approx(whole, abs=1e-12), "how many fit in memory"


def test_a_system_does_not_differ_from_itself():
    values = np.random.default_rng(0).integers(0, 2, 100).astype(float)
    means = resampled(values)[:, 0]
    same = difference(means, means, observed=0.0)
    assert (same.mean, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_difference_that_every_question_shows_is_significant_and_never_certain():
    worse = np.random.default_rng(0).random(100)
    means = resampled(worse + 0.1, worse, draws=999)
    better = difference(means[:, 0], means[:, 1], observed=0.1)
    assert better.p == pytest.approx(2 / 1000) and better.low == pytest.approx(0.1)
    assert difference(means[:, 1], means[:, 0], observed=-0.1).p == better.p, "two-sided"


def test_the_p_value_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(1)
    other = rng.normal(size=500)
    one = other + rng.normal(0.09, 1.0, size=500)
    gain = one - other
    z = gain.mean() / (gain.std() / np.sqrt(500))
    means = resampled(one, other, draws=8_000)
    assert difference(means[:, 0], means[:, 1], observed=gain.mean()).p == pytest.approx(erfc(z / sqrt(2)), abs=0.01)


def test_without_questions_there_is_nothing_to_draw():
    with pytest.raises(BadInput, match="got 0 questions"):
        Resamples(0)
