"""Approximate search by ScaNN: a tree of partitions with quantised vectors in its leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from realm_train.batch import MISSING
from realm_train.errors import BadInput
from realm_train.index.approximate import ApproximateIndex
from realm_train.index.calibration import Wanted, calibrate, calibrated

FOLDER = "scann"


@dataclass(frozen=True)
class Scann:
    """A ScaNN index of `leaves` partitions (null: the root of the number of passages), calibrated as a faiss one is.

    It is built from all vectors at once, as fp32 in memory."""

    leaves: int | None = None
    recall_target: float = 0.95
    recall_floor: float = 0.8
    recall_at: int = 20
    queries: int = 512
    train: int = 262144

    kind: ClassVar[str] = "scann"

    def __post_init__(self) -> None:
        self._wanted()
        if self.train < 1 or (self.leaves is not None and self.leaves < 1):
            raise BadInput(f"index: got train={self.train} leaves={self.leaves}, expected at least 1 of each")

    def _wanted(self) -> Wanted:
        return Wanted(target=self.recall_target, floor=self.recall_floor, at=self.recall_at, queries=self.queries)

    def build(self, embeddings: np.ndarray, folder: Path, queries: np.ndarray | None = None) -> dict:
        """Builds, writes and calibrates the index. Raises BadInput for a corpus too small for it, and for a recall
        below the floor."""
        count = len(embeddings)
        leaves = self.leaves or max(1, round(count**0.5))
        if leaves > count:
            raise BadInput(f"index.leaves: got {leaves} for {count} passages, expected fewer; null takes the root")
        with _errors(f"index=scann, {leaves} leaves for {count} passages"):
            searcher = _built(embeddings, leaves=leaves, train=self.train)
        (folder / FOLDER).mkdir()
        with _errors(str(folder / FOLDER)):
            searcher.serialize(str(folder / FOLDER), relative_path=True)
        looker = ScannLooker(searcher, widest=leaves)
        calibration = calibrate(looker, embeddings=embeddings, queries=queries, wanted=self._wanted())
        return {"kind": self.kind, "leaves": leaves, **calibration}

    def load(self, embeddings: np.ndarray, folder: Path, search: dict, device: torch.device) -> ApproximateIndex:
        """The index as it was built and calibrated; it searches on the CPU."""
        with _errors(str(folder / FOLDER)):
            searcher = _scann().load_searcher(str(folder / FOLDER))
        return calibrated(ScannLooker(searcher, widest=search["leaves"]), embeddings, search)


@dataclass(frozen=True)
class ScannLooker:
    """A ScaNN searcher; its width is the number of leaves searched."""

    searcher: Any
    widest: int
    most: int | None = None

    def __call__(self, queries: np.ndarray, fetch: int, width: int) -> np.ndarray:
        if not len(queries):
            return np.empty((0, fetch), dtype=np.int64)
        ids, scores = self.searcher.search_batched(queries, final_num_neighbors=fetch, leaves_to_search=width)
        return np.where(np.isnan(scores), MISSING, ids.astype(np.int64))


def _built(embeddings: np.ndarray, *, leaves: int, train: int) -> Any:
    builder = _scann().builder(embeddings.astype(np.float32), 1, "dot_product")
    tree = builder.tree(
        num_leaves=leaves,
        num_leaves_to_search=1,
        training_sample_size=min(train, len(embeddings)),
        quantize_centroids=False,
    )
    # Quantised by pairs of dimensions with ScaNN's published anisotropy; candidates are scored exactly by us.
    return tree.score_ah(2, anisotropic_quantization_threshold=0.2).build()


@contextmanager
def _errors(where: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"{where}: ScaNN says: {error}; take index=exact, or refresh the index") from error


def _scann() -> Any:
    try:
        from scann import scann_ops_pybind
    except ImportError as error:
        raise BadInput(
            f"index=scann: ScaNN cannot be imported ({error}); pip install -e '.[scann]', or take index=faiss"
        ) from error
    return scann_ops_pybind
