"""Passages a second of an encoder, measured on passages of the corpus's own lengths."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from realm_train.data.corpus import Corpus
from realm_train.ports import EncodePassages

WARM, BATCH = 64, 512  # passages; BATCH is what the encoder takes at once
SLICES = 16  # of the lengths
SPREAD = 0.03  # standard error of the median, as a share of it


@dataclass(frozen=True)
class EncodingRate:
    """Passages a second: the median round's, and half the range of the middle half of all rounds."""

    passages_per_second: float
    spread: float
    rounds: int
    round_passages: int


def encoding_rate(
    encode: EncodePassages,
    corpus: Corpus,
    *,
    seconds: float = 10.0,
    round_passages: int = 4 * BATCH,
    on_round: Callable[[], None] = lambda: None,
) -> EncodingRate:
    """Encodes stratified samples, the same kind of work each, until their spread is small or the time is up.

    The first, small sample warms everything up and says how large a round can be; no round is counted before it."""
    sample = Strata(corpus)
    encode(sample.ids(WARM, 0))
    started = time.perf_counter()
    encode(sample.ids(WARM, 1))
    affordable = int(WARM * seconds / 4 / (time.perf_counter() - started))
    size = max(min(WARM, corpus.count), min(round_passages, affordable, corpus.count))
    rates: list[float] = []
    while not _settled(rates) and (len(rates) < 3 or time.perf_counter() - started < seconds):
        began = time.perf_counter()
        encode(sample.ids(size, len(rates)))
        rates.append(size / (time.perf_counter() - began))
        on_round()
    return EncodingRate(statistics.median(rates), _spread(rates), len(rates), size)


class Strata:
    """Samples whose lengths are spread as the corpus's: as many passages of each of some slices of the sorted lengths.

    Within a slice they are any: batches then differ in shape as those of a refresh do, and fill as many caches.
    """

    def __init__(self, corpus: Corpus, *, most: int = 1_000_000, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        ids = np.arange(corpus.count) if corpus.count <= most else np.sort(rng.integers(0, corpus.count, most))
        lengths = corpus.token_offsets[ids + 1] - corpus.token_offsets[ids]
        self.sorted, self.seed = ids[np.argsort(lengths, kind="stable")], seed

    def ids(self, count: int, draw: int) -> Int[np.ndarray, " n"]:
        """At most `count` passages, others for another `draw`."""
        count = min(count, len(self.sorted))
        slices = np.arange(count) * SLICES // count
        edges = np.arange(SLICES + 1) * len(self.sorted) // SLICES
        rng = np.random.default_rng([self.seed, draw])
        return self.sorted[rng.integers(edges[slices], np.maximum(edges[slices] + 1, edges[slices + 1]))]


def _settled(rates: list[float]) -> bool:
    return len(rates) >= 5 and _spread(rates) / len(rates) ** 0.5 < SPREAD * statistics.median(rates)


def _spread(rates: list[float]) -> float:
    low, _, high = statistics.quantiles(rates, n=4) if len(rates) > 1 else (rates[0],) * 3
    return (high - low) / 2
