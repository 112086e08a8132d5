"""What is compared: ways to come from a question to an answer, alike from the outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch

from realm_train.batch import MISSING
from realm_train.data.questions import Question
from realm_train.tasks.answering import Retrieved, Retriever, SpanAnswerer
from realm_train.tasks.closed_book import ClosedBook
from realm_train.tasks.oracle import OraclePassages


@dataclass(frozen=True)
class Reply:
    """What a system makes of one question; passages best first."""

    prediction: str | None  # None: it only retrieves
    passages: tuple[int, ...]
    scores: tuple[float, ...]
    p: tuple[float, ...] | None = None  # p(z|x) over the null passage and all that were retrieved; None: it has none
    p_null: float | None = None  # None: it has no null passage


@runtime_checkable
class System(Protocol):
    """A row of the table."""

    retrieves: bool
    recall: float | None  # how much of exact search its search finds; None: it does not search

    def __call__(self, questions: Sequence[Question], k: int) -> list[Reply]:
        """A reply to each question, of at most `k` passages."""
        ...


class RetrieveAndRead:
    """Retrieves, and reads the best passages where there is a reader.

    With `uniform` the reader gets the passages that it reads without their scores, which mean nothing to it: all are
    equally likely, and there is no null passage.
    """

    retrieves = True

    def __init__(self, retriever: Retriever, answerer: SpanAnswerer | None, *, uniform: bool = False) -> None:
        self.retriever, self.answerer, self.uniform = retriever, answerer, uniform
        self.recall = retriever.recall

    def __call__(self, questions: Sequence[Question], k: int) -> list[Reply]:
        texts = [question.text for question in questions]
        retrieved = self.retriever(texts, max(k, self.answerer.depth if self.answerer else 0))
        predictions = self._read(texts, retrieved)
        return replies(retrieved, predictions, k=k, with_p=not self.uniform)

    def _read(self, texts: list[str], retrieved: Retrieved) -> list[str | None]:
        if self.answerer is None:
            return [None] * len(texts)
        given = _equally_likely(retrieved, self.answerer.depth) if self.uniform else retrieved
        return [spans[0].text if spans else "" for spans in self.answerer(texts, given)]


class ReadOracle:
    """Reads a passage that holds an answer; without one the answer is empty, and wrong."""

    retrieves, recall = True, None

    def __init__(self, oracle: OraclePassages, answerer: SpanAnswerer | None) -> None:
        self.oracle, self.answerer = oracle, answerer

    def __call__(self, questions: Sequence[Question], k: int) -> list[Reply]:
        found, texts = self.oracle(questions), [question.text for question in questions]
        predictions: list[str | None] = [None] * len(texts)
        if self.answerer is not None:
            predictions = [spans[0].text if spans else "" for spans in self.answerer(texts, found)]
        return replies(found, predictions, k=1, with_p=False)


class GuessClosedBook:
    """The language model alone, with nothing retrieved."""

    retrieves, recall = False, None

    def __init__(self, closed_book: ClosedBook) -> None:
        self.closed_book = closed_book

    def __call__(self, questions: Sequence[Question], k: int) -> list[Reply]:
        guesses = self.closed_book([question.text for question in questions])
        return [Reply(guess, (), ()) for guess in guesses]


def replies(retrieved: Retrieved, predictions: Sequence[str | None], *, k: int, with_p: bool) -> list[Reply]:
    """One reply for each question, without the places where there is no passage; p is over all that were retrieved."""
    prior = retrieved.log_prior().exp().tolist() if with_p else [None] * len(predictions)
    rows = zip(retrieved.ids.tolist(), retrieved.scores.tolist(), retrieved.null.tolist(), prior, strict=True)
    found = []
    for prediction, (ids, scores, null, p) in zip(predictions, rows, strict=True):
        count = sum(one != MISSING for one in ids[:k])
        has_null = p is not None and null > -torch.inf
        found.append(
            Reply(
                prediction,
                tuple(ids[:count]),
                tuple(scores[:count]),
                None if p is None else tuple(p[1 : count + 1]),
                p[0] if has_null else None,
            )
        )
    return found


def _equally_likely(retrieved: Retrieved, depth: int) -> Retrieved:
    ids = retrieved.ids[:, :depth]
    return replace(retrieved, ids=ids, scores=torch.where(ids == MISSING, -torch.inf, 0.0))
