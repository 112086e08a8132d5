"""Runs a function in two processes that talk over gloo, as two ranks of a training would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def on_two_ranks(function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """What `function(*args)` returns on rank 0 and on rank 1; it must be importable, and asks `dist` for its rank."""
    multiprocessing.spawn(_rank, (function, folder, args), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def averaged(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What DDP does to the gradients of two ranks; to be called on both."""
    for value in values.values():
        dist.all_reduce(value)
    return {name: value / 2 for name, value in values.items()}


def _rank(rank: int, function: Callable[..., Any], folder: Path, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    try:
        torch.save(function(*args), folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
