"""From a question's vector to what the reader reads: search, exclusion, the null slot, tokens."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from realm_train.batch import MISSING, Candidates, MaskedBatch, Neighbours
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.evaluation.retrieval import holds_run
from realm_train.ports import Index


class Retrieval:
    """Looks up the candidates of a batch in the adopted index, never the passage that gives the answer away.

    The source passage and its near duplicates are excluded inside the search; of the `margin` passages fetched beyond
    what is needed, those stand in that do not hold the masked sentence word for word. Nothing is ever added back: a
    question with too few passages left has missing ones.
    """

    def __init__(
        self, corpus: Corpus, *, k: int = 8, margin: int = 8, passage_length: int = 288, body_length: int = 288
    ) -> None:
        if k < 1:
            raise BadInput(f"retrieval.k: got {k}, expected at least 1 (the null passage)")
        self.corpus, self.k, self.margin = corpus, k, margin
        self.passage_length, self.body_length = passage_length, body_length
        self.index: Index | None = None

    def adopt(self, index: Index) -> None:
        """Searches go to `index` from now on; raises BadInput if it is of another corpus size."""
        if index.count != self.corpus.count:
            raise BadInput(
                f"index: got {index.count} passages, but the corpus {self.corpus.folder} has {self.corpus.count};"
                " build an index of this corpus"
            )
        self.index = index

    def search(
        self, queries: Float[Tensor, "B D"], batch: MaskedBatch, k: int, *, index: Index | None = None
    ) -> Neighbours:
        """The k best passages that are neither the source nor a copy of the masked sentence, by the adopted index or by
        another one."""
        index = self.index if index is None else index
        if index is None:
            raise BadInput("retrieval: no index was adopted; build one before the first search")
        found = index.search(queries.detach().float(), k + self.margin, exclude=batch.exclude)
        scores, ids = found.scores.cpu().clone(), found.ids.cpu().clone()
        for question, sentence in enumerate(_sentences(batch)):
            kept = 0
            for column, passage in enumerate(ids[question].tolist()):
                if kept == k or passage == MISSING:
                    break
                if not holds_run(self.corpus.body(passage), sentence):
                    ids[question, kept], scores[question, kept] = passage, scores[question, column]
                    kept += 1
            ids[question, kept:], scores[question, kept:] = MISSING, -torch.inf
        return Neighbours(scores=scores[:, :k], ids=ids[:, :k])

    def candidates(self, queries: Float[Tensor, "B D"], batch: MaskedBatch) -> Candidates:
        """The null passage and the k - 1 best ones, tokenised, each distinct passage once."""
        if self.k == 1:
            return self.read(torch.empty(len(batch), 0, dtype=torch.int64))
        return self.read(self.search(queries, batch, self.k - 1).ids)

    def read(self, ids: Int[Tensor, "B J"]) -> Candidates:
        """Candidates from chosen passages (MISSING for none); the null passage is put in slot 0."""
        ids = torch.cat([torch.full((len(ids), 1), MISSING), ids], dim=1)
        unique, rows = torch.unique(ids, return_inverse=True)  # sorted, so MISSING, the null passage, is row 0
        bodies, lengths = self.corpus.bodies(unique.numpy(), self.body_length)
        present = ids != MISSING
        present[:, 0] = True
        return Candidates(
            ids=ids,
            present=present,
            rows=rows,
            passages=self.corpus.sequences(unique.numpy(), self.passage_length),
            bodies=bodies,
            body_lengths=lengths,
        )


def leaks(candidates: Candidates, batch: MaskedBatch) -> int:
    """How many candidates give their question away: excluded ids, and bodies that hold the unmasked sentence.

    Looks at the very tensors that the reader reads, by another way than the search excludes.
    """
    forbidden = (candidates.ids[:, :, None] == batch.exclude[:, None, :]) & candidates.present[:, :, None]
    leaked = forbidden.any(dim=2)
    leaked[:, 0] = False
    for question, length in enumerate(batch.queries.lengths.tolist()):
        sentence = batch.original_ids[question, 1 : length - 1]
        bodies = candidates.bodies[candidates.rows[question]]
        if 0 < len(sentence) <= bodies.shape[1]:
            runs = bodies.unfold(1, len(sentence), 1)
            leaked[question] |= (runs == sentence).all(dim=2).any(dim=1)
    return int(leaked.sum())


def _sentences(batch: MaskedBatch) -> list[np.ndarray]:
    """The unmasked sentences, without special tokens."""
    ids, lengths = batch.original_ids.cpu().numpy(), batch.queries.lengths.tolist()
    return [row[1 : length - 1] for row, length in zip(ids, lengths, strict=True)]
