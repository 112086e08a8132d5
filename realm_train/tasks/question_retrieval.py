"""From a question's vector to the passages that are scored and read, and where they hold an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realm_train.batch import MISSING, Neighbours, QuestionBatch
from realm_train.data.answers import answer_runs, occurrences, surfaces
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.ports import ReadableIndex

KNOWN = 1 << 16  # answers whose word pieces are remembered


@dataclass(frozen=True)
class Beam:
    """The passages found for each question, best first: ids [B, K], and `spans`, one array [S, 3] a question: the place
    in its row, first and last word piece in the body, of everything that is an answer."""

    ids: Int[Tensor, "B K"]
    spans: Sequence[Int[np.ndarray, "_ 3"]]

    def holds(self) -> Bool[Tensor, "B K"]:
        """Which passages hold an answer."""
        holds = torch.zeros_like(self.ids, dtype=torch.bool)
        for row, spans in enumerate(self.spans):
            holds[row, torch.from_numpy(spans[:, 0])] = True
        return holds


class QuestionRetrieval:
    """Searches the adopted index; finds the answers in what was found, as whole words in word pieces.

    `beam` passages train the retriever (ORQA: 5000), the first `read` of them are read (5).
    """

    def __init__(self, corpus: Corpus, *, beam: int, read: int, body_length: int) -> None:
        if not 1 <= read <= beam:
            raise BadInput(f"open_qa.read: got {read} of a beam of {beam}, expected 1 to open_qa.beam")
        self.corpus, self.beam_size, self.read = corpus, beam, read
        self.body_length = body_length
        self.index: ReadableIndex | None = None
        self._runs = lru_cache(maxsize=KNOWN)(lambda answers: answer_runs(corpus.tokenizer, answers))

    def adopt(self, index: ReadableIndex) -> None:
        """Searches go to `index` from now on; raises BadInput if it is of another corpus size."""
        if index.count != self.corpus.count:
            raise BadInput(
                f"index: got {index.count} passages, but the corpus {self.corpus.folder} has {self.corpus.count};"
                " build an index of this corpus"
            )
        self.index = index

    def search(self, queries: Float[Tensor, "B D"], k: int, *, index: ReadableIndex | None = None) -> Neighbours:
        """The k best passages, by the adopted index or by another one."""
        return (self.index if index is None else index).search(queries.detach().float(), k).to("cpu")

    def beam(self, queries: Float[Tensor, "B D"], batch: QuestionBatch) -> Beam:
        """The passages that a step learns from."""
        ids = self.search(queries, self.beam_size).ids
        return Beam(ids=ids, spans=self.answers(ids, batch))

    def answers(self, ids: Int[Tensor, "B K"], batch: QuestionBatch) -> list[Int[np.ndarray, "_ 3"]]:
        """Where passages hold an answer to their question; see `Beam`."""
        rows = zip(ids.numpy(), batch.answers, batch.regex, strict=True)
        return [self._answers(row, answers, regex=regex) for row, answers, regex in rows]

    def _answers(self, ids: np.ndarray, answers: tuple[str, ...], *, regex: bool) -> Int[np.ndarray, "_ 3"]:
        if regex:
            found = [self.corpus.passage(passage)["text"] for passage in ids.tolist() if passage != MISSING]
            answers = tuple(sorted(surfaces(found, answers)))
        bodies, lengths = self.corpus.bodies(ids, self.body_length)
        return occurrences(bodies.numpy(), lengths.numpy(), self._runs(answers), self.corpus.word_starts)
