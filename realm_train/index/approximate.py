"""Approximate search by anything that finds candidates: these are scored exactly from the embeddings on disk.

So a compressed index (PQ, SQ8) costs candidates and not truth, equal scores come by lower id, and a search asks for
more until k passages are left beside those excluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from realm_train.batch import MISSING, Neighbours
from realm_train.index.exact import QUERY_ROWS, SPARE, ExactIndex, as_tensor
from realm_train.index.request import checked
from realm_train.index.rescoring import rescored, rows_of


@runtime_checkable
class Looker(Protocol):
    """What narrows a corpus down: an inverted file, a graph, compressed vectors."""

    widest: int  # the width at which it looks everywhere, or as far as it can
    most: int | None  # candidates that it can return at once; None: any number

    def __call__(self, queries: np.ndarray, fetch: int, width: int) -> np.ndarray:
        """Ids [B, fetch] of distinct passages near fp32 `queries` [B, D]; MISSING where it finds no more."""
        ...


@dataclass(frozen=True)
class Effort:
    """Candidates are looked for `width` wide; `fetch` of them are scored exactly for each passage asked for."""

    width: int
    fetch: int


class ApproximateIndex:
    """Candidates from `look`, scored exactly over the embeddings; what it cannot settle, exact search does."""

    collective = False

    def __init__(self, look: Looker, embeddings: np.ndarray, *, effort: Effort, recall: float = 0.0) -> None:
        self.count, self.dim = map(int, embeddings.shape)
        self.look, self.effort, self.recall = look, effort, recall
        self.most = min(self.count, look.most or self.count)
        self._embeddings = embeddings
        self._vectors = as_tensor(embeddings)

    @cached_property
    def _exact(self) -> ExactIndex:
        return ExactIndex(self._embeddings, dtype=self._vectors.dtype)

    @torch.no_grad()
    def search(self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"] | None = None) -> Neighbours:
        """The k best passages of each query among those looked at that are not in its row of `exclude`; never fewer
        than the corpus has left. Raises BadInput as exact search does."""
        exclude = checked(queries, k, exclude, dim=self.dim)
        fetch = self.effort.fetch * (k + SPARE) + exclude.shape[1]
        found = [
            self._settled(rows.float().cpu(), k, barred.cpu(), fetch=fetch, width=self.effort.width)
            for rows, barred in zip(queries.split(QUERY_ROWS), exclude.split(QUERY_ROWS), strict=True)
        ]
        scores, ids = (torch.cat(parts).to(queries.device) for parts in zip(*found, strict=True))
        return Neighbours(scores=scores, ids=ids)

    def rows(self, ids: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
        """The vectors of passages as they are stored, in fp32 on the ids' device; zeros for MISSING."""
        return rows_of(self._vectors, ids)

    def _settled(
        self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"], *, fetch: int, width: int
    ) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
        """Scores and ids; rows that are not settled are searched with twice the effort, and at last exactly."""
        fetch, width = min(fetch, self.most), min(width, self.look.widest)
        scores, ids, settled = self._candidates(queries, k, exclude, fetch=fetch, width=width)
        if not settled.all():
            rest = ~settled
            if fetch < self.most or width < self.look.widest:
                again = self._settled(queries[rest], k, exclude[rest], fetch=2 * fetch, width=2 * width)
            else:
                exact = self._exact.search(queries[rest], k, exclude[rest])
                again = exact.scores, exact.ids
            scores[rest], ids[rest] = again
        return scores, ids

    def _candidates(
        self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"], *, fetch: int, width: int
    ) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"], Bool[Tensor, " B"]]:
        """The k best of `fetch` candidates, and which rows need no other look: they are full, and nothing beyond their
        candidates can tie with their k-th."""
        near = torch.from_numpy(self.look(queries.numpy(), fetch, width))
        scores, ids = rescored(queries, near, self._vectors)
        lowest = scores[:, -1]  # -inf where there were no more to find
        barred = (ids[:, :, None] == exclude[:, None, :]).any(dim=2) | (ids == MISSING)
        scores, order = scores.masked_fill(barred, -torch.inf).sort(dim=1, descending=True, stable=True)
        ids = ids.masked_fill(barred, MISSING).gather(1, order)
        scores, ids = _widened(scores, k, -torch.inf), _widened(ids, k, MISSING)
        left = self.count - _distinct(exclude, self.count)
        full = (ids != MISSING).sum(dim=1) >= left.clamp(max=k)
        alone = (scores[:, -1] > lowest) | (lowest == -torch.inf) | (left <= k)
        return scores, ids, full & (alone | torch.tensor(fetch >= self.count))


def _widened(rows: Tensor, k: int, filling: float | int) -> Tensor:
    """The first k columns, filled up where there are fewer."""
    return pad(rows[:, :k], (0, max(0, k - rows.shape[1])), value=filling)


def _distinct(exclude: Int[Tensor, "B E"], count: int) -> Int[Tensor, " B"]:
    """How many passages of the index each row excludes."""
    ids = exclude.sort(dim=1).values
    repeated = pad(ids[:, 1:] == ids[:, :-1], (min(1, ids.shape[1]), 0))
    return ((ids >= 0) & (ids < count) & ~repeated).sum(dim=1)
