"""What to hide in a sentence: salient spans (REALM, section 3.4), random spans (SpanBERT, 3.1), or random pieces.

Pure functions of the sentence, its salient spans and a generator. Every masked piece becomes [MASK] and has a target;
what would need more than `max_masks` masks is not masked at all, rather than masked without a target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Integer

from realm_train.errors import BadInput

Pieces = Integer[np.ndarray, " T"]  # a sentence, without special tokens
WordStarts = Bool[np.ndarray, " T"]
Spans = Integer[np.ndarray, "P 2"]  # token start and end of salient spans, relative to the sentence


@dataclass(frozen=True)
class Masked:
    """One masked sentence, without special tokens, and its M masks from left to right."""

    tokens: Int[np.ndarray, " T"]  # with the mask id in place
    original: Int[np.ndarray, " T"]
    positions: Int[np.ndarray, " M"]
    targets: Int[np.ndarray, " M"]
    spans: Int[np.ndarray, " M"]  # which masked span (0, 1, …) a mask belongs to

    def answer(self) -> Int[np.ndarray, " R"]:
        """The first masked run, unmasked: what a helpful passage holds."""
        run = self.positions == self.positions[0] + np.arange(len(self.positions))
        return self.targets[run]


@runtime_checkable
class Masking(Protocol):
    """A choice of masks."""

    needs_spans: bool
    """Whether salient spans are what it masks."""

    def __call__(
        self, tokens: Pieces, pieces_start_word: WordStarts, spans: Spans, rng: np.random.Generator, mask_id: int
    ) -> Masked | None:
        """At least one mask, or None where nothing can be masked, which does not depend on `rng`."""
        ...


@dataclass(frozen=True)
class SalientMasking:
    """One salient span, uniformly at random; with `all_occurrences` every other copy of its pieces is masked with it.

    Copies are found by piece, so that none is left even as the beginning of a longer word. The published REALM leaves
    them visible: `all_occurrences=False`.
    """

    all_occurrences: bool = True
    max_masks: int = 10

    needs_spans = True

    def __post_init__(self) -> None:
        _expect(self.max_masks >= 1, f"max_masks: got {self.max_masks}, expected at least 1")

    def __call__(
        self, tokens: Pieces, pieces_start_word: WordStarts, spans: Spans, rng: np.random.Generator, mask_id: int
    ) -> Masked | None:
        """None if no span lies wholly in the sentence and needs at most `max_masks` masks."""
        for start, end in spans[rng.permutation(len(spans))].tolist():  # the first that fits: a uniform choice
            if not 0 <= start < end <= len(tokens):
                continue
            positions = occurrences(tokens, tokens[start:end]) if self.all_occurrences else np.arange(start, end)
            if len(positions) <= self.max_masks:
                return _masked(tokens, positions, np.zeros_like(positions), mask_id)
        return None


@dataclass(frozen=True)
class SpanMasking:
    """Random spans of whole words until `rate` of the pieces is masked; lengths in words are geometric with mean
    `mean_length`, restricted to at most `max_length` (SpanBERT, section 3.1)."""

    rate: float = 0.15
    mean_length: float = 3.0
    max_length: int = 10
    max_masks: int = 10

    needs_spans = False

    def __post_init__(self) -> None:
        _expect_budget(self.rate, self.max_masks)
        _expect(self.mean_length >= 1, f"mean_length: got {self.mean_length}, expected at least 1 word")
        _expect(self.max_length >= 1, f"max_length: got {self.max_length}, expected at least 1 word")

    def __call__(
        self, tokens: Pieces, pieces_start_word: WordStarts, spans: Spans, rng: np.random.Generator, mask_id: int
    ) -> Masked | None:
        """At least one word; None if every word has more than `max_masks` pieces."""
        pieces = _word_lengths(pieces_start_word)
        words = self._choose(pieces, float(min(self.rate * len(tokens), self.max_masks)), rng)
        groups = np.repeat(words, pieces)
        positions = np.flatnonzero(groups >= 0)
        return _masked(tokens, positions, groups[positions], mask_id)

    def _choose(self, pieces: np.ndarray, budget: float, rng: np.random.Generator) -> np.ndarray:
        """The span that every word belongs to, -1 where it stays visible."""
        words = np.full(len(pieces), -1)
        used, span = 0, 0
        while used < budget and len(free := np.flatnonzero((words < 0) & (used + pieces <= self.max_masks))):
            start = int(rng.choice(free))
            for word in range(start, min(start + self._length(rng), len(pieces))):
                if words[word] >= 0 or used + pieces[word] > self.max_masks:
                    break
                # A word over the budget is taken as often as it takes to meet the budget in expectation.
                if used and rng.random() * pieces[word] >= budget - used:
                    return words
                words[word] = span
                used += int(pieces[word])
            span += 1
        return words

    def _length(self, rng: np.random.Generator) -> int:
        lengths = np.arange(1, self.max_length + 1)
        weights = (1 - 1 / self.mean_length) ** (lengths - 1)
        return int(rng.choice(lengths, p=weights / weights.sum()))


@dataclass(frozen=True)
class TokenMasking:
    """Pieces drawn uniformly at random, `rate` of them in expectation and at least one, each a span of its own."""

    rate: float = 0.15
    max_masks: int = 10

    needs_spans = False

    def __post_init__(self) -> None:
        _expect_budget(self.rate, self.max_masks)

    def __call__(
        self, tokens: Pieces, pieces_start_word: WordStarts, spans: Spans, rng: np.random.Generator, mask_id: int
    ) -> Masked | None:
        """None for a sentence without a piece."""
        if len(tokens) == 0:
            return None
        budget = min(self.rate * len(tokens), self.max_masks)
        count = max(1, int(budget) + int(rng.random() < budget % 1))
        positions = np.sort(rng.choice(len(tokens), size=count, replace=False))
        return _masked(tokens, positions, np.arange(count), mask_id)


def eligible(masking: Masking, tokens: Pieces, pieces_start_word: WordStarts, spans: Spans, mask_id: int) -> bool:
    """Whether `masking` finds something to mask in this sentence, whatever the random numbers."""
    return masking(tokens, pieces_start_word, spans, np.random.default_rng(0), mask_id) is not None


def occurrences(tokens: Pieces, pattern: Integer[np.ndarray, " n"]) -> Int[np.ndarray, " M"]:
    """Every position that some copy of `pattern`, a part of `tokens`, covers; copies may overlap."""
    copies = np.lib.stride_tricks.sliding_window_view(tokens, len(pattern)) == pattern
    starts = np.flatnonzero(copies.all(axis=1))
    return np.unique(starts[:, None] + np.arange(len(pattern)))


def window(length: int, span: tuple[int, int], max_length: int) -> tuple[int, int]:
    """Start and end of at most `max_length` pieces of a sentence, with `span` as near the middle as the ends allow."""
    start, end = span
    if end - start > max_length:
        raise BadInput(f"a span of {end - start} word pieces does not fit in {max_length}; allow longer queries")
    first = start - (max_length - (end - start)) // 2
    first = max(0, min(first, length - max_length))
    return first, min(length, first + max_length)


def _masked(tokens: np.ndarray, positions: np.ndarray, groups: np.ndarray, mask_id: int) -> Masked | None:
    """`groups` are contiguous runs of equal numbers, renumbered from left to right."""
    original = tokens.astype(np.int64)
    if len(positions) == 0 or mask_id in original:  # a mask that the text itself holds would have no target
        return None
    hidden = original.copy()
    hidden[positions] = mask_id
    spans = np.cumsum(np.diff(groups, prepend=groups[:1]) != 0)
    return Masked(tokens=hidden, original=original, positions=positions, targets=original[positions], spans=spans)


def _word_lengths(pieces_start_word: np.ndarray) -> np.ndarray:
    """Pieces of every word; a sentence may begin inside one."""
    starts = np.flatnonzero(pieces_start_word[1:]) + 1
    return np.diff(np.r_[0, starts, len(pieces_start_word)]) if len(pieces_start_word) else np.empty(0, np.int64)


def _expect_budget(rate: float, max_masks: int) -> None:
    _expect(0 < rate <= 1, f"rate: got {rate}, expected more than 0 and at most 1")
    _expect(max_masks >= 1, f"max_masks: got {max_masks}, expected at least 1")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise BadInput(f"masking: {message}")
