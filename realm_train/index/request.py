"""What is asked of an index: questions, k, and the passages that are no answer; refused here for every kind alike."""

from __future__ import annotations

import torch
from torch import Tensor

from realm_train.errors import BadInput


def checked(queries: Tensor, k: int, exclude: Tensor | None, *, dim: int) -> Tensor:
    """The excluded ids [B, E], with E = 0 for none. Raises BadInput for k < 1, another width than `dim`, queries that
    are not finite, and as many rows of `exclude` as there are not questions."""
    if k < 1:
        raise BadInput(f"index: got k={k}, expected at least 1 passage to look up")
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise BadInput(
            f"index: got queries of shape {tuple(queries.shape)}, expected [questions, {dim}];"
            " the index was made by a tower of another width: refresh it, or load the tower it came from"
        )
    if exclude is None:
        exclude = queries.new_empty((len(queries), 0), dtype=torch.long)
    if exclude.ndim != 2 or len(exclude) != len(queries):
        raise BadInput(f"index: got exclude of shape {tuple(exclude.shape)}, expected [{len(queries)}, ids]")
    if not queries.isfinite().all():
        raise BadInput("index: got queries with NaN or infinite numbers; training diverged, lower its learning rate")
    return exclude
