"""What the rooms ask of each other, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from realm_train.batch import Neighbours, Sequences


@runtime_checkable
class Index(Protocol):
    """Maximum inner product search over passage vectors."""

    count: int
    dim: int

    def search(self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"] | None = None) -> Neighbours:
        """The k best passages of each query that are not in its row of `exclude`, ties by lower id."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns token sequences into vectors."""

    dim: int

    def __call__(self, sequences: Sequences) -> Float[Tensor, "N D"]: ...


EncodePassages = Callable[[np.ndarray], Float[Tensor, "N D"]]
"""Passage ids -> their vectors, in the order of the ids: all that a refresher needs to know of a model."""
