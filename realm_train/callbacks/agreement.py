"""What the ranks of a training agree on: one integer a step, and nothing while anybody encodes or loads."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from realm_train.index.aside import read_json, write_json
from realm_train.objectives.counts import world_size

POLL_SECONDS = 0.1
T = TypeVar("T")


class Agreement:
    """Rank 0 decides. Short words go through a gloo group of their own, so that no GPU is waited for; what may take
    minutes goes through files in `folder`, because a collective that waits that long is ended by its time limit.

    To be made on all ranks at once; alone, all of it is free.
    """

    def __init__(self, folder: Path) -> None:
        self.world = world_size()
        self.rank = dist.get_rank() if self.world > 1 else 0
        self.group = dist.new_group(backend="gloo") if self.world > 1 else None
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)  # what an earlier start of this run decided is void
        self.folder = folder / f"{self.broadcast(uuid.uuid4().int >> 65):x}" if self.world > 1 else folder

    def broadcast(self, value: int) -> int:
        """Rank 0's value, on every rank."""
        return int(self._collect(dist.broadcast, value, src=0)) if self.world > 1 else value

    def least(self, value: int) -> int:
        """The smallest value of all ranks."""
        return int(self._collect(dist.all_reduce, value, op=dist.ReduceOp.MIN)) if self.world > 1 else value

    def _collect(self, collective: Callable, value: int, **how: object) -> Tensor:
        word = torch.tensor(value, dtype=torch.int64)
        collective(word, group=self.group, **how)
        return word

    def decided(self, name: str, decide: Callable[[], T | None], *, meanwhile: Callable[[], None] | None = None) -> T:
        """What rank 0's `decide` gives once it is no longer None; the other ranks read it from a file. `meanwhile` is
        called between two looks, and may raise to end the waiting."""
        path = self.folder / f"{name}.json"
        look = decide if self.rank == 0 else lambda: read_json(path)
        while (value := look()) is None:
            if meanwhile is not None:
                meanwhile()
            time.sleep(POLL_SECONDS)
        if self.rank == 0 and self.world > 1:
            write_json(path, value)
        return value

    def gathered(self, ids: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of all ranks, rank after rank, on the CPU: ids [N] and vectors [N, D]; ranks may differ in N."""
        ids, vectors = ids.cpu(), vectors.detach().float().cpu()
        if self.world == 1:
            return ids, vectors
        counts = torch.zeros(self.world, dtype=torch.int64)
        counts[self.rank] = len(ids)
        dist.all_reduce(counts, group=self.group)
        most = int(counts.max())
        padded = [torch.zeros(most, *rows.shape[1:], dtype=rows.dtype) for rows in (ids, vectors)]
        for space, rows in zip(padded, (ids, vectors), strict=True):
            space[: len(rows)] = rows
        all_ids, all_vectors = ([torch.empty_like(rows) for _ in range(self.world)] for rows in padded)
        dist.all_gather(all_ids, padded[0], group=self.group)
        dist.all_gather(all_vectors, padded[1], group=self.group)
        cut = [slice(count) for count in counts.tolist()]
        return (
            torch.cat([rows[part] for rows, part in zip(all_ids, cut, strict=True)]),
            torch.cat([rows[part] for rows, part in zip(all_vectors, cut, strict=True)]),
        )
