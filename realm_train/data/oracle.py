"""Passages that are known to help: they hold the very span that is masked, because it is salient there too."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Integer

from realm_train.batch import MISSING
from realm_train.data.corpus import Corpus

SAMPLE = 10_000_000  # word pieces that frequencies are counted on
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits well spread: 2^64 over the golden ratio


class Oracle:
    """Looks up other passages in which a run of word pieces is a salient span; arrays of one entry a span."""

    def __init__(self, corpus: Corpus, *, candidates: int = 16) -> None:
        self.corpus, self.candidates = corpus, candidates
        keys = corpus.span_keys(_run_keys)
        passages = np.repeat(np.arange(corpus.count), corpus.span_counts())
        order = np.argsort(keys, kind="stable")
        self.keys, self.passages = keys[order], passages[order]
        counts = np.bincount(corpus.tokens[:SAMPLE], minlength=len(corpus.word_starts))
        self.rarity = 1 / np.sqrt(1 + counts)

    def passage(
        self,
        answer: Integer[np.ndarray, " R"],
        sentence: Integer[np.ndarray, " T"],
        exclude: Integer[np.ndarray, " E"],
        rng: np.random.Generator,
    ) -> int:
        """Of up to `candidates` passages that hold the answer, the one whose words are most like the sentence's, rare
        words counting more; MISSING if there is none that is not excluded."""
        key = _run_keys(answer[None, :])[0]
        first, last = np.searchsorted(self.keys, key, "left"), np.searchsorted(self.keys, key, "right")
        found = np.setdiff1d(self.passages[first:last], exclude)
        if not len(found):
            return MISSING
        found = rng.permutation(found)[: self.candidates].tolist()
        words = np.unique(sentence)
        likeness = [self.rarity[np.intersect1d(words, self.corpus.body(passage))].sum() for passage in found]
        return found[int(np.argmax(likeness))]


def _run_keys(runs: Integer[np.ndarray, "P R"]) -> Int[np.ndarray, " P"]:
    """A 64-bit key of each run of word pieces; runs of different lengths get different keys with all but certainty."""
    keys = np.full(len(runs), runs.shape[1], dtype=np.uint64)
    for column in runs.T.astype(np.uint64):
        keys = (keys ^ column) * MULTIPLIER
        keys ^= keys >> np.uint64(29)
    return keys.view(np.int64)
