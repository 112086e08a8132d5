"""An index in shards: every rank holds some, questions go to all ranks, and the best of all shards come back.

    rank 0   questions of rank 0 ┐            ┌ passages 0 … 4     ┐
    rank 1   questions of rank 1 ┴ all ranks ─┴ passages 5 … 10    ┴ merged, each rank keeps its own questions' answers

A search is a collective. What one rank gets wrong is refused on all of them, so that nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from realm_train.batch import MISSING, Neighbours
from realm_train.errors import BadInput
from realm_train.index.request import checked
from realm_train.ports import Index, SearchStructure, WritableIndex

Part = tuple[int, Index]
"""(id of the first passage, index of a shard)."""


@dataclass(frozen=True)
class Sharded:
    """Each rank holds its part of `shards` consecutive shards of the structure `of`; None: one a rank, which only exact
    search can do, since others are built before the ranks are known."""

    of: SearchStructure
    shards: int | None = None

    def __post_init__(self) -> None:
        if self.shards is not None and self.shards < 1:
            raise BadInput(f"index.shards: got {self.shards}, expected at least 1, or null for one a rank")
        if self.shards is None and self.of.kind != "exact":
            raise BadInput(f"index.shards: got null, expected a number of shards to build index={self.of.kind} in")

    @property
    def kind(self) -> str:
        return self.of.kind if self.of.kind == "exact" else f"sharded {self.of.kind}"

    def build(self, embeddings: np.ndarray, folder: Path, queries: np.ndarray | None = None) -> dict:
        """Builds and calibrates every shard in a folder of its own; the recall stated is the lowest of theirs."""
        if self.of.kind == "exact":
            return self.of.build(embeddings, folder, queries)
        if self.shards > len(embeddings):
            raise BadInput(f"index.shards: got {self.shards} for {len(embeddings)} passages, expected at most as many")
        searches = []
        for shard, rows in enumerate(bounds(len(embeddings), self.shards)):
            (folder / _name(shard)).mkdir()
            searches.append(self.of.build(embeddings[rows], folder / _name(shard), queries))
        worst = min(searches, key=lambda search: search["recall"][str(search["recall_at"])])
        stated = {key: worst[key] for key in ("recall", "recall_at", "recall_target", "queries", "queries_from")}
        return {"kind": self.kind, **stated, "shards": searches}

    def load(self, embeddings: np.ndarray, folder: Path, search: dict, device: torch.device) -> ShardedIndex:
        """This rank's shards, and no more of the embeddings than theirs."""
        searches = search.get("shards", [search] * (self.shards or _world()))
        rows = bounds(len(embeddings), len(searches))
        mine = bounds(len(searches), _world())[_rank()]
        parts = [
            (rows[shard].start, self.of.load(embeddings[rows[shard]], folder / _name(shard), searches[shard], device))
            for shard in range(mine.start, mine.stop)
        ]
        recall = search["recall"][str(search["recall_at"])] if "recall" in search else 1.0
        return ShardedIndex(parts, count=len(embeddings), dim=embeddings.shape[1], recall=recall)


class ShardedIndex:
    """This rank's `parts` of an index of `count` passages, in the order of their ids; without `torch.distributed` they
    are all there are."""

    collective = True

    def __init__(self, parts: Sequence[Part], *, count: int, dim: int, recall: float = 1.0) -> None:
        self.parts, self.count, self.dim, self.recall = list(parts), count, dim, recall

    @torch.no_grad()
    def search(self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"] | None = None) -> Neighbours:
        """What one index of all passages finds, to the bit. All ranks search at once, with the same k and any number of
        questions. Raises BadInput on all ranks where one of them has to."""
        refusal = None
        try:
            exclude = checked(queries, k, exclude, dim=self.dim)
        except BadInput as error:
            refusal, exclude = error, torch.empty(0, 0, dtype=torch.long)
        rows, columns = _agreed(len(queries), exclude.shape[1], k, refusal)
        everyone = torch.cat(_from_all(queries.detach().float(), rows))
        barred = torch.cat(_from_all(pad(exclude, (0, columns - exclude.shape[1]), value=MISSING), rows))
        found = self._search_parts(everyone, k, barred)
        answers = [len(everyone)] * len(rows)
        of_ranks = zip(_from_all(found.scores, answers), _from_all(found.ids, answers), strict=True)
        best = merged([Neighbours(scores=scores, ids=ids) for scores, ids in of_ranks], k)
        start = sum(rows[: _rank()])
        mine = slice(start, start + len(queries))
        return Neighbours(scores=best.scores[mine].to(queries.device), ids=best.ids[mine].to(queries.device))

    def _search_parts(self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"]) -> Neighbours:
        """The k best among this rank's passages."""
        none = queries.new_full((len(queries), k), -torch.inf)
        found = [Neighbours(scores=none, ids=torch.full_like(none, MISSING, dtype=torch.long))]
        for first, index in self.parts:
            part = index.search(queries, k, exclude - first)  # ids of other shards are no passage there
            ids = part.ids.where(part.ids == MISSING, part.ids + first)
            found.append(Neighbours(scores=part.scores, ids=ids))
        return merged(found, k)

    @torch.no_grad()
    def rows(self, ids: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
        """As of the one index. All ranks ask at once, with the same K and any number of rows."""
        counts = torch.cat(_from_all(torch.tensor([len(ids)]), [1] * _world())).tolist()
        everyone = torch.cat(_from_all(ids, counts))
        rows = torch.zeros(*everyone.shape, self.dim, device=ids.device)
        for first, index in self.parts:
            here = (everyone >= first) & (everyone < first + index.count)
            rows += index.rows(torch.where(here, everyone - first, MISSING))
        rows = sum(_from_all(rows, [len(everyone)] * len(counts)))  # exact: a row is zero on all ranks but one
        start = sum(counts[: _rank()])
        return rows[start : start + len(ids)]

    def write(self, ids: Int[Tensor, " N"], vectors: Float[Tensor, "N D"]) -> None:
        """Puts newer vectors in the place of those that this rank holds; the others' it passes over. No collective:
        every rank is to be given all of them. Raises BadInput as the shards do, and if they are not exact."""
        if ((ids < 0) | (ids >= self.count)).any():
            raise BadInput(f"index: got ids to write that are not among its {self.count} passages: of another corpus?")
        for first, index in self.parts:
            if not isinstance(index, WritableIndex):
                raise BadInput("index: shards of this kind take no newer vectors; use index=sharded with exact search")
            here = (ids >= first) & (ids < first + index.count)
            index.write(ids[here] - first, vectors[here])


def bounds(count: int, parts: int) -> list[slice]:
    """`count` things in consecutive parts whose sizes differ by one at most; some are empty if there are too few."""
    edges = [count * part // parts for part in range(parts + 1)]
    return [slice(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]


def merged(parts: Sequence[Neighbours], k: int) -> Neighbours:
    """The k best of several searches; equal scores in the order of the parts, which is that of their ids."""
    scores, order = torch.cat([part.scores for part in parts], dim=1).sort(dim=1, descending=True, stable=True)
    ids = torch.cat([part.ids for part in parts], dim=1).gather(1, order)
    return Neighbours(scores=scores[:, :k], ids=ids[:, :k])


def _name(shard: int) -> str:
    return f"shard-{shard:05d}"


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _agreed(rows: int, columns: int, k: int, refusal: BadInput | None) -> tuple[list[int], int]:
    """Every rank's number of questions, and the widest exclusion; raises BadInput on all ranks or on none."""
    sizes = torch.stack(_from_all(torch.tensor([[rows, columns, k, refusal is not None]]), [1] * _world()))[:, 0]
    if refusal is not None:
        raise refusal
    if sizes[:, 3].any():
        raise BadInput(f"index: rank {int(sizes[:, 3].argmax())} refused its questions; its own message says why")
    if (sizes[:, 2] != k).any():
        raise BadInput(f"index: got k={k} here and {sizes[:, 2].tolist()} on all ranks, expected the same on each")
    return sizes[:, 0].tolist(), int(sizes[:, 1].max())


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _from_all(tensor: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """Every rank's tensor, whose rows may differ in number; on the device of this rank's."""
    if not dist.is_initialized() or not max(rows):
        return [tensor for _ in rows]
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    filling = tensor.new_zeros((max(rows) - len(tensor), *tensor.shape[1:]))
    padded = torch.cat([tensor, filling]).to(device).contiguous()
    gathered = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(gathered, padded)
    return [part[:count].to(tensor.device) for part, count in zip(gathered, rows, strict=True)]
