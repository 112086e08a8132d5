"""Passages a second, against a clock that an encoder moves by a known cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realm_train.tasks import encoding_rate as module
from realm_train.tasks.encoding_rate import SLICES, Strata, encoding_rate


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """`clock[0]` is the time in seconds."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def cost(corpus, ids: np.ndarray) -> float:
    """Seconds that grow faster than the length does, as attention makes them."""
    lengths = corpus.token_offsets[ids + 1] - corpus.token_offsets[ids]
    return float((lengths + lengths**2 / 50).sum()) * 1e-4


def test_a_sample_has_as_many_passages_of_every_slice_of_the_lengths(corpus):
    lengths = np.diff(corpus.token_offsets)
    strata = Strata(corpus)
    assert sorted(strata.sorted.tolist()) == list(range(corpus.count))
    assert (np.diff(lengths[strata.sorted]) >= 0).all()
    edges = np.arange(1, SLICES) * corpus.count // SLICES
    for draw in range(5):
        slices = np.searchsorted(edges, np.argsort(strata.sorted)[strata.ids(3 * SLICES, draw)], side="right")
        assert np.bincount(slices).tolist() == [3] * SLICES
    assert strata.ids(10, 0).tolist() == Strata(corpus).ids(10, 0).tolist() != strata.ids(10, 1).tolist()
    assert len(strata.ids(10**6, 0)) == corpus.count


def test_the_rate_is_that_of_the_whole_corpus(corpus, clock):
    def encode(ids):
        clock[0] += cost(corpus, ids)
        return torch.zeros(len(ids), 1)

    whole = corpus.count / cost(corpus, np.arange(corpus.count))
    found = encoding_rate(encode, corpus, seconds=1.0)
    assert found.passages_per_second == pytest.approx(whole, rel=0.05)


def test_the_first_calls_are_not_counted(corpus, clock):
    calls = []

    def encode(ids):
        clock[0] += 0.01 * len(ids) * (100 if not calls else 1)  # a library that is loaded by the first call
        calls.append(len(ids))
        return torch.zeros(len(ids), 1)

    found = encoding_rate(encode, corpus, seconds=10.0)
    assert found.passages_per_second == pytest.approx(100.0) and found.spread == pytest.approx(0.0)
    assert found.rounds == len(calls) - 2 and calls[2:] == [found.round_passages] * found.rounds


def test_it_goes_on_while_rates_differ_and_stops_when_the_time_is_up(corpus, clock):
    rng = np.random.default_rng(0)

    def encode(ids):
        clock[0] += len(ids) * rng.uniform(0.001, 0.01)
        return torch.zeros(len(ids), 1)

    encoding_rate(encode, corpus, seconds=5.0)
    assert 5.0 <= clock[0] < 6.0


def test_a_slow_encoder_is_asked_for_three_rounds_that_fit(corpus, clock):
    rounds = []

    def encode(ids):
        clock[0] += 0.1 * len(ids)
        return torch.zeros(len(ids), 1)

    found = encoding_rate(encode, corpus, seconds=1.0, on_round=lambda: rounds.append(clock[0]))
    assert found.rounds == len(rounds) == 3 and found.passages_per_second == pytest.approx(10.0)
