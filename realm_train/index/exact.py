"""Exact maximum inner product search in torch, chunk by chunk, so that scores never fill memory.

`torch.topk` promises no order among equal scores, so selection is by stable sorts alone. They stay cheap because a row
is first narrowed to the k blocks of columns with the highest maxima: a block outside has k blocks ahead of it, and each
of these holds an element that beats all of its own.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from realm_train.batch import MISSING, Neighbours
from realm_train.errors import BadInput
from realm_train.index.request import checked
from realm_train.index.rescoring import rescored, rows_of

DTYPES = ("float32", "float16", "bfloat16")
BLOCK = 32  # columns whose maximum stands for them while a row is narrowed down
SPARE = 4  # more candidates than asked for: what the product's rounding put just below the last place is judged again
LOADED = 8192  # passages copied and looked over at once while loading: what that takes is little beside any index
QUERY_ROWS = 256  # questions scored at once: the score buffer holds QUERY_ROWS x chunk numbers


class ExactIndex:
    """Every passage is scored: inner products of fp32 precision over vectors stored as fp32, fp16 or bf16.

    On the CPU an array or tensor that is already of `dtype` is used in place, not copied: a memory map stays one, and
    `write` writes to it. On CUDA products obey `torch.set_float32_matmul_precision`.
    """

    recall = 1.0
    collective = False

    def __init__(
        self,
        embeddings: Float[Tensor, "N D"] | np.ndarray,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        chunk: int = 65536,
    ) -> None:
        if embeddings.ndim != 2:
            raise BadInput(f"index: got embeddings of shape {tuple(embeddings.shape)}, expected [passages, width]")
        if chunk < 1:
            raise BadInput(f"index: got chunk={chunk}, expected at least 1 passage")
        self.count, self.dim = map(int, embeddings.shape)
        self.chunk = chunk
        self.vectors = _stored(embeddings, device=torch.device(device), dtype=dtype)
        self._read_only = isinstance(embeddings, np.ndarray) and not embeddings.flags.writeable

    @torch.no_grad()
    def search(self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"] | None = None) -> Neighbours:
        """The k best passages of each query that are not in its row of `exclude`, equal scores by lower id; on the
        queries' device. Raises BadInput for k < 1, a wrong width, and queries that are not finite."""
        exclude = checked(queries, k, exclude, dim=self.dim)
        device = self.vectors.device
        found = [
            self._search_rows(rows.to(device, torch.float32), k, barred.to(device))
            for rows, barred in zip(queries.split(QUERY_ROWS), exclude.split(QUERY_ROWS), strict=True)
        ]
        scores, ids = (torch.cat(parts).to(queries.device) for parts in zip(*found, strict=True))
        return Neighbours(scores=scores, ids=ids)

    def rows(self, ids: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
        """The vectors of passages as they are stored, in fp32 on the ids' device; zeros for MISSING."""
        return rows_of(self.vectors, ids)

    @torch.no_grad()
    def write(self, ids: Int[Tensor, " N"], vectors: Float[Tensor, "N D"]) -> None:
        """Puts newer vectors of some passages in the place of theirs; of an id given twice, the last counts. Raises
        BadInput, and changes nothing, if an id is not in the index or a vector is not finite as stored."""
        newer = vectors.detach().to(self.vectors.device, self.vectors.dtype)
        ids = ids.to(self.vectors.device, torch.long)
        if newer.shape != (len(ids), self.dim):
            raise BadInput(f"index: got {tuple(newer.shape)} to write, expected {(len(ids), self.dim)}")
        if ((ids < 0) | (ids >= self.count)).any():
            raise BadInput(f"index: got ids to write that are not among its {self.count} passages: of another corpus?")
        if not newer.isfinite().all():
            raise BadInput(
                f"index: got vectors to write that are NaN or infinite as {self.vectors.dtype}; training diverged,"
                " lower its learning rate, or store float32 if numbers are merely large"
            )
        if self._read_only:  # torch does not know, and a write to a read-only map kills the process
            self.vectors, self._read_only = self.vectors.clone(), False
        unique, place = ids.unique(return_inverse=True)
        last = place.new_zeros(len(unique)).scatter_reduce_(0, place, torch.arange(len(ids)).to(place), "amax")
        self.vectors[unique] = newer[last]

    def _search_rows(
        self, queries: Float[Tensor, "B D"], k: int, exclude: Int[Tensor, "B E"]
    ) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
        best = queries.new_full((len(queries), k + SPARE), -torch.inf)
        ids = torch.full_like(best, MISSING, dtype=torch.long)
        width = _padded(min(self.chunk, self.count) + 1)
        buffer = queries.new_empty(len(queries), width)
        for start in range(0, self.count, self.chunk):
            scores = self._score_chunk(queries, start, exclude, buffer)
            columns = best_columns(scores, k + SPARE)
            # What was found so far comes first, and the stable sort keeps it first among equals: lower ids before
            # higher ones, and the k empty places, whose id is MISSING, before any passage of score -inf.
            candidates = torch.cat([best, scores.gather(1, columns)], dim=1)
            best, order = candidates.sort(dim=1, descending=True, stable=True)
            best = best[:, : k + SPARE]
            ids = torch.cat([ids, columns + start], dim=1).gather(1, order[:, : k + SPARE])
        best, ids = rescored(queries, ids, self.vectors)
        return best[:, :k], ids[:, :k]

    def _score_chunk(self, queries: Tensor, start: int, exclude: Tensor, buffer: Tensor) -> Float[Tensor, "B C"]:
        """Scores of passages start, start + 1, ...; what is excluded, and at least one column of padding, is -inf."""
        vectors = self.vectors[start : start + self.chunk].to(torch.float32)
        count = len(vectors)
        scores = buffer[:, : _padded(count + 1)]
        torch.mm(queries, vectors.T, out=scores[:, :count])
        scores[:, count:] = -torch.inf
        columns = exclude - start
        # Ids of other chunks go to the first column of padding, where they change nothing.
        columns = columns.where((columns >= 0) & (columns < count), count)
        return scores.scatter_(1, columns, -torch.inf)


@dataclass(frozen=True)
class Exact:
    """Exact search over a version's embeddings, held as `dtype`; None: as they are at rest, which on the CPU is the
    memory map itself."""

    dtype: str | None = None
    chunk: int = 65536

    kind: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPES):
            raise BadInput(f"index.dtype: got {self.dtype!r}, expected one of {', '.join(DTYPES)}, or null")
        if self.chunk < 1:
            raise BadInput(f"index.chunk: got {self.chunk}, expected at least 1 passage")

    def build(self, embeddings: np.ndarray, folder: Path, queries: np.ndarray | None = None) -> dict:
        """Nothing is needed beside the embeddings."""
        return {"kind": self.kind}

    def load(self, embeddings: np.ndarray, folder: Path, search: dict, device: torch.device) -> ExactIndex:
        """The index over any version's embeddings, whatever structure it was published with."""
        dtype = getattr(torch, self.dtype or str(embeddings.dtype))
        return ExactIndex(embeddings, device=device, dtype=dtype, chunk=self.chunk)


def best_columns(scores: Float[Tensor, "B C"], k: int) -> Int[Tensor, "B K"]:
    """Columns of the k highest scores of each row (or of all, if fewer), best first, equal scores by lower column."""
    if scores.shape[1] <= 2 * k * BLOCK:
        return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    padding = _padded(scores.shape[1]) - scores.shape[1]
    blocks = F.pad(scores, (0, padding), value=-torch.inf) if padding else scores
    maxima = blocks.unflatten(1, (-1, BLOCK)).amax(dim=2)
    # In the order of their ids, so that the stable sort below still prefers the lower one.
    chosen = best_columns(maxima, k).sort(dim=1).values
    columns = (chosen[:, :, None] * BLOCK + torch.arange(BLOCK, device=scores.device)).flatten(1)
    order = blocks.gather(1, columns).sort(dim=1, descending=True, stable=True).indices[:, :k]
    return columns.gather(1, order)


def _padded(columns: int) -> int:
    return -(-columns // BLOCK) * BLOCK


def _stored(embeddings: Tensor | np.ndarray, *, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "N D"]:
    source = embeddings.detach() if isinstance(embeddings, Tensor) else as_tensor(embeddings)
    shared = source.device == device and source.dtype == dtype
    vectors = source if shared else torch.empty(source.shape, dtype=dtype, device=device)
    for start in range(0, len(source), LOADED):
        part = vectors[start : start + LOADED]
        if not shared:
            part.copy_(source[start : start + LOADED])
        if not part.isfinite().all():
            raise BadInput(
                f"index: NaN or infinite numbers among passages {start} to {start + len(part) - 1} as {dtype};"
                " encode them again, or store them as float32 if they overflow"
            )
    return vectors


def as_tensor(array: np.ndarray) -> Tensor:
    """The same memory as a tensor; of a read-only map too, to which nothing may be written."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
