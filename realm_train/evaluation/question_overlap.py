"""Test questions that training has seen in other words, and answers that it has seen (Lewis et al. 2020)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from realm_train.errors import BadInput
from realm_train.evaluation.exact_match import normalised

Part = Literal["question overlap", "answer overlap only", "no overlap"]
PARTS: tuple[Part, ...] = ("question overlap", "answer overlap only", "no overlap")


@dataclass(frozen=True)
class Overlap:
    """What of a test question was in training."""

    question: int | None  # the most similar training question, if it is similar enough
    similarity: float  # to it, 1.0 for one that is equal once it is normalised; 0 without one
    answer: bool  # one of its answers is an answer of a training question

    @property
    def part(self) -> Part:
        """The part of the test set that it belongs to."""
        return PARTS[0] if self.question is not None else PARTS[1] if self.answer else PARTS[2]


class SeenQuestions:
    """The training questions, found by their words: those whose sets of normalised words have a Jaccard similarity of
    at least `threshold` with a test question's, without comparing every pair.

    Two sets that are so similar share one of the rarest words of each: all but a few words of a question need no look
    (prefix filtering, Chaudhuri et al. 2006), and nothing is missed.
    """

    def __init__(self, questions: Sequence[str], answers: Iterable[str], *, threshold: float = 0.8) -> None:
        if not 0 < threshold <= 1:
            raise BadInput(f"threshold: got {threshold}, expected more than 0 and at most 1")
        self.threshold = threshold
        self.words = [words(question) for question in questions]
        self.answers = {normalised(answer) for answer in answers} - {""}
        self.frequency = Counter(word for one in self.words for word in one)
        self.found_by: defaultdict[str, list[int]] = defaultdict(list)
        for number, one in enumerate(self.words):
            for word in self._prefix(one):
                self.found_by[word].append(number)

    def _prefix(self, one: frozenset[str]) -> list[str]:
        """Its rarest words, one of which is in every set that is similar enough."""
        rarest = sorted(one, key=lambda word: (self.frequency[word], word))
        return rarest[: len(one) - math.ceil(self.threshold * len(one) - 1e-9) + 1]

    def overlap(self, question: str, answers: Iterable[str]) -> Overlap:
        """What of this question was in training; of equally similar training questions the first is named."""
        asked = words(question)
        candidates = sorted({number for word in self._prefix(asked) for number in self.found_by.get(word, ())})
        similar = [(jaccard(asked, self.words[number]), -number) for number in candidates]
        similarity, number = max(similar, default=(0.0, 0))
        seen = any(normalised(answer) in self.answers for answer in answers)
        if similarity < self.threshold - 1e-9:
            return Overlap(None, 0.0, seen)
        return Overlap(-number, similarity, seen)


def words(question: str) -> frozenset[str]:
    """The set of a question's words, normalised as answers are."""
    return frozenset(normalised(question).split())


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Words in both, of the words in either; 0 for two empty sets."""
    return len(one & other) / max(1, len(one | other))
