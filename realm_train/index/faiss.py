"""Approximate search by faiss, for any index that its factory can make."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from realm_train.errors import BadInput
from realm_train.index.approximate import ApproximateIndex
from realm_train.index.aside import FULL_DISK
from realm_train.index.calibration import Wanted, calibrate, calibrated

FILE = "index.faiss"
ADDED = 16384  # passages added at once: as much of the memory map as is copied at a time
WIDEST = 4096  # nodes of a graph that a search visits at most
GPU_FETCH = 2048  # faiss on a GPU finds no more at once


@dataclass(frozen=True)
class Faiss:
    """A faiss index by its factory string (`IVF256,Flat`, `HNSW32`, `SQ8`, `IVF1024,PQ16`), calibrated to
    `recall_target` at `recall_at` and refused below `recall_floor`. It is trained on `train` passages, or 40 a cell.

    A graph (HNSW) that several threads build differs from build to build; all else is made again alike."""

    factory: str = "IVF256,Flat"
    recall_target: float = 0.95
    recall_floor: float = 0.8
    recall_at: int = 20
    queries: int = 512
    train: int = 65536
    gpu: bool = False

    kind: ClassVar[str] = "faiss"

    def __post_init__(self) -> None:
        self._wanted()
        if self.train < 1:
            raise BadInput(f"index.train: got {self.train}, expected at least 1 passage")

    def _wanted(self) -> Wanted:
        return Wanted(target=self.recall_target, floor=self.recall_floor, at=self.recall_at, queries=self.queries)

    def build(self, embeddings: np.ndarray, folder: Path, queries: np.ndarray | None = None) -> dict:
        """Trains, fills and writes the faiss index, and calibrates it on the CPU. Raises BadInput for a factory string
        that faiss does not know or that the corpus is too small for, and for a recall below the floor."""
        index = _filled(_trained(self.factory, embeddings, sample=self.train), embeddings)
        with _file_errors(folder / FILE):
            _faiss().write_index(index, str(folder / FILE))
        calibration = calibrate(_looker(index), embeddings=embeddings, queries=queries, wanted=self._wanted())
        return {"kind": self.kind, "factory": self.factory, **calibration}

    def load(self, embeddings: np.ndarray, folder: Path, search: dict, device: torch.device) -> ApproximateIndex:
        """The index as it was built and calibrated, with its own factory string; with `gpu`, on the CUDA `device`."""
        with _file_errors(folder / FILE):
            index = _faiss().read_index(str(folder / FILE))
        if (index.ntotal, index.d) != embeddings.shape:
            raise BadInput(
                f"{folder / FILE}: got {index.ntotal} vectors of {index.d}, expected {embeddings.shape};"
                " it is of other embeddings: refresh the index"
            )
        looker = _looker(index)
        if self.gpu:
            looker = replace(looker, index=_on_gpu(index, search["factory"], device), most=GPU_FETCH)
        return calibrated(looker, embeddings, search)


@dataclass(frozen=True)
class FaissLooker:
    """A faiss index, with the parameters that make it look so many cells or nodes wide."""

    index: Any
    widest: int
    parameters: Callable[[int], Any]
    most: int | None = None

    def __call__(self, queries: np.ndarray, fetch: int, width: int) -> np.ndarray:
        _faiss()  # with this thread's number of threads
        return self.index.search(queries, fetch, params=self.parameters(width))[1]


def write_exported(embeddings: np.ndarray, folder: Path, search: dict, target: Path) -> None:
    """Writes a faiss file for others to search: the version's own index with the width that it was calibrated to, or
    an exact IndexFlatIP where it was published for another kind of search."""
    faiss = _faiss()
    if search["kind"] == Faiss.kind:
        with _file_errors(folder / FILE):
            index = faiss.read_index(str(folder / FILE))
        _set_width(index, search["effort"]["width"])
    else:
        index = _filled(faiss.IndexFlatIP(embeddings.shape[1]), embeddings)
    with _file_errors(target):
        faiss.write_index(index, str(target))


def _set_width(index: Any, width: int) -> None:
    """How wide a search is that does not say so itself."""
    faiss, inner = _faiss(), _inner(index)
    if isinstance(inner, faiss.IndexIVF):
        inner.nprobe = width
    elif isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = width


def _faiss() -> Any:
    """The module, told to use as many threads as torch."""
    try:
        import faiss
    except ImportError as error:
        raise BadInput(
            "faiss is not installed; pip install -e '.[faiss-cpu]' (or faiss-gpu), or do without: index=exact to search"
            " exactly, vectors=false to export models alone"
        ) from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def _trained(factory: str, embeddings: np.ndarray, *, sample: int) -> Any:
    faiss, (count, dim) = _faiss(), embeddings.shape
    with _refusals(factory, count):
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        cells = _cells(index)
        if cells > count:
            raise BadInput(
                f"index.factory={factory}: {cells} cells for {count} passages; take about {round(4 * count**0.5)} cells"
                " or fewer, or index=exact"
            )
        rows = np.random.default_rng(0).permutation(count)[: max(sample, 40 * cells)]
        index.train(embeddings[np.sort(rows)].astype(np.float32))
    return index


def _filled(index: Any, embeddings: np.ndarray) -> Any:
    for start in range(0, len(embeddings), ADDED):
        part = embeddings[start : start + ADDED].astype(np.float32)
        if not np.isfinite(part).all():
            raise BadInput(f"index: NaN or infinite numbers among passages {start} to {start + len(part) - 1}")
        index.add(part)
    return index


def _inner(index: Any) -> Any:
    """The index behind rotations and projections (OPQ, PCA)."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def _cells(index: Any) -> int:
    inner = _inner(index)
    return inner.nlist if isinstance(inner, _faiss().IndexIVF) else 0


def _looker(index: Any) -> FaissLooker:
    faiss, inner = _faiss(), _inner(index)
    if isinstance(inner, faiss.IndexIVF):
        widest, parameters = inner.nlist, lambda width: faiss.SearchParametersIVF(nprobe=width)
    elif isinstance(inner, faiss.IndexHNSW):
        widest, parameters = min(inner.ntotal, WIDEST), lambda width: faiss.SearchParametersHNSW(efSearch=width)
    else:
        return FaissLooker(index, widest=1, parameters=lambda width: None)
    if isinstance(faiss.downcast_index(index), faiss.IndexPreTransform):
        return FaissLooker(
            index, widest, lambda width: faiss.SearchParametersPreTransform(index_params=parameters(width))
        )
    return FaissLooker(index, widest, parameters)


def _on_gpu(index: Any, factory: str, device: torch.device) -> Any:
    faiss = _faiss()
    knows = hasattr(faiss, "StandardGpuResources")
    if device.type != "cuda" or not knows:
        raise BadInput(
            f"index.gpu=true: got device {device} and a faiss {'with' if knows else 'without'} GPU support, expected a"
            " CUDA device and faiss-gpu (pip install -e '.[faiss-gpu]'); or set index.gpu=false"
        )
    with _refusals(factory, index.ntotal):
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index)


@contextmanager
def _refusals(factory: str, count: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).rpartition(".cpp:")[2] or str(error)
        raise BadInput(
            f"index.factory={factory}: faiss refuses it for {count} passages ({reason}); take another factory string,"
            " for example IVF256,Flat, HNSW32 or SQ8, or index=exact"
        ) from error


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """faiss's errors of reading and writing, as the operating system's own where the disk is full."""
    try:
        yield
    except RuntimeError as error:
        for code in FULL_DISK:
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), str(path)) from error
        raise BadInput(f"{path}: faiss cannot read or write it ({error}); refresh the index") from error
