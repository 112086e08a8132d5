"""What the rooms ask of each other, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from realm_train.batch import Neighbours, Sequences


@runtime_checkable
class Index(Protocol):
    """Maximum inner product search over passage vectors."""

    count: int
    dim: int
    recall: float  # how much of what exact search finds it found when it was calibrated; 1.0: it is exact
    collective: bool  # a search is a collective: all ranks search at once, with the same k

    def search(self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"] | None = None) -> Neighbours:
        """The k best passages of each query that are not in its row of `exclude`, ties by lower id."""
        ...


@runtime_checkable
class ReadableIndex(Index, Protocol):
    """An index that gives its vectors back: fine-tuning scores the passages found again, with a gradient."""

    def rows(self, ids: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
        """The vectors of passages as they are stored, in fp32 on the ids' device; zeros for MISSING."""
        ...


@runtime_checkable
class WritableIndex(Index, Protocol):
    """An index whose vectors can be replaced one by one while it is searched between training steps."""

    def write(self, ids: Int[Tensor, " N"], vectors: Float[Tensor, "N D"]) -> None:
        """Puts newer vectors of some passages in the place of theirs; BadInput, and no change, for what is no vector of
        a passage of the index."""
        ...


@runtime_checkable
class SearchStructure(Protocol):
    """A kind of index: what a version needs beside its embeddings to be searched, made once and loaded by all."""

    kind: str

    def build(self, embeddings: np.ndarray, folder: Path, queries: np.ndarray | None = None) -> dict:
        """Writes what searches need into the folder of a version not yet published, and returns what its manifest keeps
        under "search": at least `kind`. `queries` [Q, D] are vectors of real questions, to calibrate with."""
        ...

    def load(self, embeddings: np.ndarray, folder: Path, search: dict, device: torch.device) -> Index:
        """The index of a published version; `search` is what `build` returned."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns token sequences into vectors."""

    dim: int

    def __call__(self, sequences: Sequences) -> Float[Tensor, "N D"]: ...


EncodePassages = Callable[[np.ndarray], Float[Tensor, "N D"]]
"""Passage ids -> their vectors, in the order of the ids: all that a refresher needs to know of a model."""
