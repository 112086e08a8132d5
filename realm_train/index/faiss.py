"""Approximate search by faiss: what it finds are candidates, which are scored exactly from the embeddings on disk.

So a compressed index (PQ, SQ8) costs candidates and not truth, equal scores come by lower id, and a search asks for
more until k passages are left beside those excluded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realm_train.batch import MISSING, Neighbours
from realm_train.errors import BadInput
from realm_train.index.aside import FULL_DISK
from realm_train.index.calibration import Effort, Wanted, calibrate
from realm_train.index.exact import QUERY_ROWS, ExactIndex, as_tensor
from realm_train.index.request import checked
from realm_train.index.rescoring import rescored

FILE = "index.faiss"
ADDED = 16384  # passages added at once: as much of the memory map as is copied at a time
SPARE = 4  # as in exact search: candidates that rounding may have put just below the last place
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
        dial = _dial(index)
        calibration = calibrate(
            lambda effort: FaissIndex(index, embeddings, dial=dial, effort=effort),
            widest=dial.widest,
            embeddings=embeddings,
            queries=queries,
            wanted=self._wanted(),
        )
        return {"kind": self.kind, "factory": self.factory, **calibration}

    def load(self, embeddings: np.ndarray, folder: Path, search: dict, device: torch.device) -> FaissIndex:
        """The index as it was built and calibrated, with its own factory string; with `gpu`, on the CUDA `device`."""
        with _file_errors(folder / FILE):
            index = _faiss().read_index(str(folder / FILE))
        return FaissIndex(
            _on_gpu(index, search["factory"], device) if self.gpu else index,
            embeddings,
            dial=_dial(index),
            effort=Effort(**search["effort"]),
            recall=search["recall"][str(search["recall_at"])],
            most=GPU_FETCH if self.gpu else None,
        )


@dataclass(frozen=True)
class Dial:
    """How a faiss index is told how wide to look: cells of an inverted file, nodes of a graph, or (1) no way to."""

    widest: int
    parameters: Callable[[int], Any]


class FaissIndex:
    """Candidates from faiss, scored exactly over the embeddings; what faiss cannot settle, exact search does."""

    collective = False

    def __init__(
        self,
        index: Any,
        embeddings: np.ndarray,
        *,
        dial: Dial,
        effort: Effort,
        recall: float = 0.0,
        most: int | None = None,
    ) -> None:
        self.count, self.dim = map(int, embeddings.shape)
        if (index.ntotal, index.d) != (self.count, self.dim):
            raise BadInput(
                f"index: got a faiss index of {index.ntotal} vectors of {index.d}, expected {self.count} of {self.dim};"
                " it is of other embeddings: refresh the index"
            )
        self.index, self.dial, self.effort, self.recall = index, dial, effort, recall
        self.most = min(self.count, most or self.count)
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

    def _settled(
        self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"], *, fetch: int, width: int
    ) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
        """Scores and ids; rows that are not settled are searched with twice the effort, and at last exactly."""
        fetch, width = min(fetch, self.most), min(width, self.dial.widest)
        scores, ids, settled = self._look(queries, k, exclude, fetch=fetch, width=width)
        if not settled.all():
            rest = ~settled
            if fetch < self.most or width < self.dial.widest:
                again = self._settled(queries[rest], k, exclude[rest], fetch=2 * fetch, width=2 * width)
            else:
                exact = self._exact.search(queries[rest], k, exclude[rest])
                again = exact.scores, exact.ids
            scores[rest], ids[rest] = again
        return scores, ids

    def _look(
        self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"], *, fetch: int, width: int
    ) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"], Bool[Tensor, " B"]]:
        """The k best of `fetch` candidates, and which rows need no other look: they are full, and nothing beyond their
        candidates can tie with their k-th."""
        _faiss()  # with this thread's number of threads
        _, near = self.index.search(queries.numpy(), fetch, params=self.dial.parameters(width))
        scores, ids = rescored(queries, torch.from_numpy(near), self._vectors)
        lowest = scores[:, -1]  # -inf where faiss had no more to give
        barred = (ids[:, :, None] == exclude[:, None, :]).any(dim=2) | (ids == MISSING)
        scores, order = scores.masked_fill(barred, -torch.inf).sort(dim=1, descending=True, stable=True)
        ids = ids.masked_fill(barred, MISSING).gather(1, order)
        scores, ids = _widened(scores, k, -torch.inf), _widened(ids, k, MISSING)
        left = self.count - _distinct(exclude, self.count)
        full = (ids != MISSING).sum(dim=1) >= left.clamp(max=k)
        alone = (scores[:, -1] > lowest) | (lowest == -torch.inf) | (left <= k)
        return scores, ids, full & (alone | torch.tensor(fetch >= self.count))


def _widened(rows: Tensor, k: int, filling: float) -> Tensor:
    """The first k columns, filled up where there are fewer."""
    return torch.nn.functional.pad(rows[:, :k], (0, max(0, k - rows.shape[1])), value=filling)


def _distinct(exclude: Int[Tensor, "B E"], count: int) -> Int[Tensor, " B"]:
    """How many passages of the index each row excludes."""
    ids = exclude.sort(dim=1).values
    repeated = torch.nn.functional.pad(ids[:, 1:] == ids[:, :-1], (min(1, ids.shape[1]), 0))
    return ((ids >= 0) & (ids < count) & ~repeated).sum(dim=1)


def _faiss() -> Any:
    """The module, told to use as many threads as torch."""
    try:
        import faiss
    except ImportError as error:
        raise BadInput(
            "index=faiss: faiss is not installed; pip install -e '.[faiss-cpu]' (or faiss-gpu), or take index=exact"
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


def _dial(index: Any) -> Dial:
    faiss, inner = _faiss(), _inner(index)
    if isinstance(inner, faiss.IndexIVF):
        widest, parameters = inner.nlist, lambda width: faiss.SearchParametersIVF(nprobe=width)
    elif isinstance(inner, faiss.IndexHNSW):
        widest, parameters = min(inner.ntotal, WIDEST), lambda width: faiss.SearchParametersHNSW(efSearch=width)
    else:
        return Dial(widest=1, parameters=lambda width: None)
    if isinstance(faiss.downcast_index(index), faiss.IndexPreTransform):
        return Dial(widest, lambda width: faiss.SearchParametersPreTransform(index_params=parameters(width)))
    return Dial(widest, parameters)


def _on_gpu(index: Any, factory: str, device: torch.device) -> Any:
    faiss = _faiss()
    if device.type != "cuda" or not hasattr(faiss, "StandardGpuResources"):
        raise BadInput(
            f"index.gpu=true: got device {device} and a faiss {'with' if device.type != 'cuda' else 'without'} GPU"
            " support, expected a CUDA device and faiss-gpu (pip install -e '.[faiss-gpu]'); or set index.gpu=false"
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
