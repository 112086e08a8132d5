"""The last word on candidates: inner products summed in fp64 and rounded once to fp32.

What narrows a corpus down to candidates (a matrix product, an inverted file, a graph) may round as it likes; here the
same question and the same passage get the same bits in any batch, chunk, shard and kind of index, so that ties are ties
and shards merge into what one index finds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realm_train.batch import MISSING

NUMBERS = 2**22  # of fp64 at once: 32 MiB


def rescored(
    queries: Float[Tensor, "B D"], ids: Int[Tensor, "B C"], vectors: Float[Tensor, "N D"]
) -> tuple[Float[Tensor, "B C"], Int[Tensor, "B C"]]:
    """Scores and ids of the candidates, best first, equal scores by lower id; MISSING ones come last with -inf."""
    # By id first: the stable sort by score below keeps that order among equals.
    ids = ids.sort(dim=1).values
    rows = max(1, NUMBERS // max(1, ids.shape[1] * vectors.shape[1]))
    scores = torch.cat([_scores(*part, vectors) for part in zip(queries.split(rows), ids.split(rows), strict=True)])
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    ids = ids.gather(1, order)
    return scores, ids.where(scores > -torch.inf, MISSING)


def rows_of(vectors: Float[Tensor, "N D"], ids: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
    """Those rows in fp32 on the ids' device; zeros for MISSING."""
    if not len(vectors):
        return torch.zeros(*ids.shape, vectors.shape[1], device=ids.device)
    rows = vectors[ids.clamp(min=0).to(vectors.device)].to(ids.device, torch.float32)
    return rows.masked_fill_((ids == MISSING)[..., None], 0.0)


def _scores(
    queries: Float[Tensor, "B D"], ids: Int[Tensor, "B C"], vectors: Float[Tensor, "N D"]
) -> Float[Tensor, "B C"]:
    if not len(vectors):
        return queries.new_full(ids.shape, -torch.inf)
    products = vectors[ids.clamp(min=0)].double().mul_(queries.double()[:, None, :])
    return products.sum(dim=2).float().masked_fill_(ids == MISSING, -torch.inf)
