"""Sums and sizes over ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from two_ranks import on_two_ranks

from realm_train.objectives.counts import global_sum, world_size


def test_one_process_is_its_own_world():
    assert world_size() == 1
    total = global_sum(7)
    assert total.item() == 7 and total.dtype == torch.float32 and total.shape == ()


def unequal_counts() -> tuple[float, int]:
    return global_sum((3, 40)[dist.get_rank()]).item(), world_size()


def test_two_ranks_know_the_same_sum(tmp_path):
    assert on_two_ranks(unequal_counts, tmp_path) == [(43.0, 2), (43.0, 2)]
