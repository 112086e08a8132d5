"""Two ranks, each with its part of a step in two micro-batches, give the gradient of one big batch."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.distributed as dist
from small_world import gradients, ict_task, masked_sentences, pretrain_task, random_index
from two_ranks import averaged, on_two_ranks

from realm_train.data.corpus import Corpus
from realm_train.data.ict import ClozePairs
from realm_train.data.sampling import StepLoader
from realm_train.tasks.retrieval import Retrieval


class Accumulating:
    """What a step asks of a Trainer that accumulates two micro-batches."""

    def __init__(self, accumulate: int) -> None:
        self.accumulate_grad_batches = accumulate


def pretrain_gradients(corpus: Corpus, *, per: str, rank: int, world: int, micro: int) -> tuple[dict, list[int]]:
    """The gradient of one step of eight questions as Lightning accumulates it, and the masks of each micro-batch."""
    retrieval = Retrieval(corpus, k=4, passage_length=64, body_length=48)
    retrieval.adopt(random_index(corpus))
    task = pretrain_task(retrieval, per=per)
    loader = StepLoader(masked_sentences(corpus), batch_size=8, micro_batch_size=micro, rank=rank, world=world)
    accumulate = 8 // (micro * world)
    task.trainer = Accumulating(accumulate)
    batches = list(itertools.islice(loader, accumulate))
    for number, batch in enumerate(batches):
        (task.training_step(batch, number) / accumulate).backward()
    return gradients(task), [int(batch.valid.sum()) for batch in batches]


def ict_gradients(corpus: Corpus, *, rank: int, world: int) -> dict:
    """The gradient of the mean loss of eight cloze pairs, two of which are from the same passage."""
    pairs, each = ClozePairs(corpus, passage_length=64), 8 // world
    positions = [*range(7), len(pairs.order.items) + other_epoch(pairs)][rank * each : (rank + 1) * each]
    task = ict_task()
    task.outcome(pairs.batch(positions))[0].mean().backward()
    return gradients(task)


def other_epoch(pairs: ClozePairs) -> int:
    """Where the passage of position 0 comes in the second epoch."""
    size = len(pairs.order.items)
    return next(place for place in range(size) if pairs.order[size + place] == pairs.order[0])


def on_a_rank(folder) -> dict:
    corpus, rank = Corpus(folder), dist.get_rank()
    results = {}
    for per in ("token", "span"):
        gradients, masks = pretrain_gradients(corpus, per=per, rank=rank, world=2, micro=2)
        results[per] = averaged(gradients)
    results["ict"] = averaged(ict_gradients(corpus, rank=rank, world=2))
    return results | {"masks": masks}


@pytest.fixture(scope="module")
def ranks(corpus_folder, tmp_path_factory) -> list[dict]:
    return on_two_ranks(on_a_rank, tmp_path_factory.mktemp("ranks"), corpus_folder)


def test_ranks_and_micro_batches_have_different_numbers_of_masks(ranks):
    """Or a mean of local means would pass the next test too."""
    assert sum(ranks[0]["masks"]) != sum(ranks[1]["masks"]) and ranks[1]["masks"][0] != ranks[1]["masks"][1]


@pytest.mark.parametrize("per", ["token", "span"])
def test_pretraining_on_two_ranks_is_one_big_batch(ranks, corpus, per):
    expected, _ = pretrain_gradients(corpus, per=per, rank=0, world=1, micro=8)
    assert_same(ranks, per, expected)


def test_the_inverse_cloze_task_on_two_ranks_is_one_big_batch(ranks, corpus):
    assert_same(ranks, "ict", ict_gradients(corpus, rank=0, world=1))


def assert_same(ranks: list[dict], name: str, expected: dict) -> None:
    assert max(value.abs().max() for value in expected.values()) > 1e-2
    for rank in ranks:
        assert rank[name].keys() == expected.keys()
        for parameter, gradient in expected.items():
            torch.testing.assert_close(rank[name][parameter], gradient, rtol=1e-4, atol=1e-6, msg=parameter)
