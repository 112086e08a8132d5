"""Asking what was trained: questions as text -> passages with p(z|x) -> the answer, as characters of a passage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from realm_train.batch import MISSING
from realm_train.data.corpus import Corpus
from realm_train.data.question_examples import question_sequences
from realm_train.models.open_qa import OpenQa
from realm_train.models.towers import Towers
from realm_train.objectives.marginal import log_prior
from realm_train.ports import Index
from realm_train.tasks.encode import autocast, evaluating
from realm_train.tasks.question_retrieval import QuestionRetrieval
from realm_train.tasks.reading import read_passages


@dataclass(frozen=True)
class Retrieved:
    """The passages found for each question, best first, and f(x,z) of each and of the null passage; -inf and MISSING
    where there is none, -inf also for the null passage of a retriever that knows none."""

    ids: Int[Tensor, "B K"]
    scores: Float[Tensor, "B K"]
    null: Float[Tensor, " B"]

    def log_prior(self) -> Float[Tensor, "B C"]:
        """log p(z|x) in nats, the null passage first; a question without any passage has only that."""
        return log_prior(torch.cat([self.null[:, None], self.scores], dim=1))


@runtime_checkable
class Retriever(Protocol):
    """Anything that finds passages for questions; `recall` says how much of what exact search finds it finds."""

    name: str
    recall: float

    def __call__(self, questions: Sequence[str], k: int) -> Retrieved:
        """The k best passages of each question."""
        ...


class DenseRetriever:
    """The query tower and an index of what its passage tower has encoded."""

    def __init__(
        self,
        towers: Towers,
        index: Index,
        corpus: Corpus,
        *,
        query_length: int,
        null_bias: float | None = None,
        precision: str = "32-true",
        name: str = "dense",
    ) -> None:
        self.towers, self.index, self.corpus, self.name = towers, index, corpus, name
        self.query_length, self.null_bias, self.precision = query_length, null_bias, precision
        self.recall = index.recall

    def __call__(self, questions: Sequence[str], k: int) -> Retrieved:
        """The k best passages; scores are f(x,z), with the tower's scale."""
        device = next(self.towers.parameters()).device
        with evaluating(self.towers), autocast(device, self.precision):
            asked = question_sequences(self.corpus, questions, self.query_length)
            queries = self.towers.query(asked.to(device)).float()
            null = self._null(queries)
        found = self.index.search(queries, k).to("cpu")
        return Retrieved(ids=found.ids, scores=found.scores * self.towers.scale, null=null.cpu())

    def _null(self, queries: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """f(x, null passage): the learned score, or that of the empty passage's vector."""
        if self.null_bias is not None:
            return torch.full((len(queries),), self.null_bias)
        vector = self.towers.passage(self.corpus.sequences(np.array([MISSING]), self.query_length).to(queries.device))
        return self.towers.scores(queries, vector.expand(len(queries), 1, -1))[:, 0]


@dataclass(frozen=True)
class Span:
    """A possible answer: characters [start, end) of a passage's text, and its share among all spans read."""

    passage: int
    start: int
    end: int
    text: str
    p: float


class SpanAnswerer:
    """Reads the `depth` best passages of each question; p(y|x) is one softmax over their spans, where a span's score is
    the reader's plus f(x,z) of its passage (ORQA, section 3)."""

    def __init__(
        self, qa: OpenQa, corpus: Corpus, *, depth: int, query_length: int, body_length: int, precision: str = "32-true"
    ) -> None:
        self.qa, self.corpus, self.depth = qa, corpus, depth
        self.query_length, self.precision = query_length, precision
        self._passages = QuestionRetrieval(corpus, beam=depth, read=depth, body_length=body_length)

    def __call__(self, questions: Sequence[str], retrieved: Retrieved) -> list[list[Span]]:
        """The best span of each passage read, best first; none where nothing was found to read."""
        device = next(self.qa.parameters()).device
        ids, prior = retrieved.ids[:, : self.depth], retrieved.scores[:, : self.depth]
        asked = question_sequences(self.corpus, questions, self.query_length).to(device)
        with evaluating(self.qa), autocast(device, self.precision):
            scores, _ = read_passages(self.qa, self._passages, asked, ids, rows=list(range(len(ids))))
        scores = scores.float().cpu() + prior[:, :, None, None]
        return [self._spans(*row) for row in zip(ids.tolist(), scores, strict=True)]

    def _spans(self, ids: Sequence[int], scores: Float[Tensor, "R L W"]) -> list[Span]:
        if not scores.isfinite().any():
            return []
        share = scores.flatten().softmax(dim=0).view_as(scores).flatten(1)
        best = share.max(dim=1)
        spans = [
            self._span(passage, divmod(place, scores.shape[2]), p)
            for passage, place, p in zip(ids, best.indices.tolist(), best.values.tolist(), strict=True)
            if p > 0
        ]
        return sorted(spans, key=lambda span: -span.p)

    def _span(self, passage: int, place: tuple[int, int], p: float) -> Span:
        """Word pieces `first` to `first + more` of the body, as characters of the text."""
        first, more = place
        text = self.corpus.passage(passage)["text"]
        offsets = self.corpus.tokenizer.encode(text, add_special_tokens=False).offsets
        start, end = offsets[first][0], offsets[first + more][1]
        return Span(passage=passage, start=start, end=end, text=text[start:end], p=p)
