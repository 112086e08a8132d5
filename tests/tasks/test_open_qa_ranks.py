"""Two ranks, each with its part of a step of questions, give the gradient of one big batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from qa_steps import batch_of, questions_over, task_over
from small_world import gradients
from two_ranks import averaged, on_two_ranks

from realm_train.data.corpus import Corpus


def on_a_rank(folder) -> dict[str, torch.Tensor]:
    """The averaged gradient of a rank's two questions, its index searched together with the other rank."""
    from realm_train.index.sharded import ShardedIndex

    task = task_over(Corpus(folder))
    rank, index = dist.get_rank(), task.retrieval.index
    half = index.count // 2
    mine = [(0, type(index)(index.vectors[:half])), (half, type(index)(index.vectors[half:]))][rank]
    questions = questions_over(task)[:4]
    task.retrieval.adopt(ShardedIndex([mine], count=index.count, dim=index.dim))
    task.training_step(batch_of(Corpus(folder), questions[2 * rank : 2 * rank + 2]), 0).backward()
    return averaged(gradients(task))


@pytest.fixture(scope="module")
def ranks(corpus_folder, tmp_path_factory) -> list[dict]:
    return on_two_ranks(on_a_rank, tmp_path_factory.mktemp("ranks"), corpus_folder)


def test_fine_tuning_on_two_ranks_over_a_sharded_index_is_one_big_batch(ranks, corpus):
    """One rank has two questions to read, the other none: both have a gradient for every weight."""
    task = task_over(corpus)
    task.training_step(batch_of(corpus, questions_over(task)[:4]), 0).backward()
    expected = gradients(task)
    assert max(value.abs().max() for value in expected.values()) > 1e-2
    for rank in ranks:
        assert rank.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(rank[name], value, rtol=1e-3, atol=1e-5, msg=name)
