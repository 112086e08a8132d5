"""Denominators that are the same on every rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def global_sum(count: int | float, device: torch.device | str = "cpu") -> Tensor:
    """The sum of `count` over all ranks, as a scalar tensor; `count` itself where there is one process."""
    total = torch.tensor(float(count), device=device)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
    return total


def world_size() -> int:
    """Ranks that train together; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
