"""Vectors newer than the index version in use: what steps wrote back, and what a rolling refresh has encoded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from realm_train.index.exact import ExactIndex

NEVER = -1


class Written:
    """Which rows of the index are not the version's own, and of which step each of them is; an int32 a passage."""

    def __init__(self, count: int) -> None:
        self.steps = np.full(count, NEVER, dtype=np.int32)

    def write(self, index: ExactIndex, ids: Int[Tensor, " N"], vectors: Float[Tensor, "N D"], *, step: int) -> None:
        """Puts vectors of weights after `step` steps in place; of an id that comes twice, the last."""
        last = np.unique(ids.numpy()[::-1], return_index=True)[1]
        rows = torch.from_numpy(len(ids) - 1 - last)
        index.write(ids[rows], vectors[rows])
        self.steps[ids[rows].numpy()] = step

    def carry(self, old: ExactIndex, new: ExactIndex, *, trained_step: int) -> None:
        """Rows that are newer than the version now adopted go over to it, the others are forgotten."""
        self.steps[self.steps <= trained_step] = NEVER
        rows = torch.from_numpy(np.flatnonzero(self.steps != NEVER))
        if len(rows):
            new.write(rows, old.vectors[rows.to(old.vectors.device)])

    def state(self, index: ExactIndex) -> dict[str, Any]:
        """For a checkpoint: rows, their vectors as they lie in memory, and their steps."""
        rows = torch.from_numpy(np.flatnonzero(self.steps != NEVER))
        vectors = index.vectors[rows.to(index.vectors.device)].cpu()
        return {"ids": rows, "vectors": vectors, "steps": torch.from_numpy(self.steps[rows.numpy()])}

    def restore(self, index: ExactIndex, state: dict[str, Any]) -> None:
        """Puts back what `state` kept."""
        if len(state["ids"]):
            index.write(state["ids"], state["vectors"])
            self.steps[state["ids"].numpy()] = state["steps"].numpy()
