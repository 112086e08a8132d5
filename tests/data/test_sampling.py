"""Positions: pure functions of the seed, shared out without loss among ranks, micro-batches and workers."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from spanned import same_batches

from realm_train.batch import Record
from realm_train.data.ict import ClozePairs
from realm_train.data.masked import MaskedSentences
from realm_train.data.masking import SalientMasking
from realm_train.data.sampling import Shuffle, StepLoader, documents_held_out, example_rng
from realm_train.errors import BadInput

ITEMS = np.array([3, 5, 8, 13, 21, 34, 55])


@dataclass(frozen=True)
class Numbers(Record):
    """A batch of examples that are their positions."""

    positions: list[int]


class Positions:
    """Examples that are their positions."""

    def micro_batches(self, positions, size):
        return [Numbers(list(positions[start : start + size])) for start in range(0, len(positions), size)]


def steps(loader: StepLoader, count: int) -> list[list[int]]:
    return [batch.positions for batch in itertools.islice(loader, count)]


def test_every_epoch_holds_every_item_once_in_an_order_of_its_own():
    shuffle = Shuffle(ITEMS, seed=0)
    epochs = [[shuffle[epoch * 7 + index] for index in range(7)] for epoch in range(20)]
    assert all(sorted(epoch) == ITEMS.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20


def test_positions_do_not_depend_on_what_was_asked_before():
    ordered = [Shuffle(ITEMS, seed=1)[position] for position in range(40)]
    shuffle = Shuffle(ITEMS, seed=1)
    backwards = [shuffle[position] for position in reversed(range(40))][::-1]
    copy = pickle.loads(pickle.dumps(shuffle))
    assert backwards == ordered == [copy[position] for position in range(40)]
    assert [Shuffle(ITEMS, seed=2)[position] for position in range(40)] != ordered


def test_random_choices_of_positions_and_seeds_are_all_different():
    draws = {example_rng(seed, position).bytes(8) for seed in range(5) for position in range(200)}
    assert len(draws) == 1000
    assert example_rng(3, 7).bytes(8) == example_rng(3, 7).bytes(8)


def test_documents_are_held_out_by_their_hash_alone():
    documents = np.random.default_rng(0).integers(-(2**63), 2**63, 20_000)
    held = documents_held_out(documents, 2.0)
    assert abs(held.mean() - 0.02) < 4 * np.sqrt(0.02 * 0.98 / 20_000)
    assert np.array_equal(documents_held_out(documents[::3], 2.0), held[::3])
    assert not documents_held_out(documents, 0.0).any()
    assert (documents_held_out(documents, 5.0) | ~held).all()  # a larger share holds the smaller one
    for percent in (-1.0, 100.0):
        with pytest.raises(BadInput, match="heldout_percent: got"):
            documents_held_out(documents, percent)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_ranks_share_out_the_positions_of_one_process(world, micro):
    ranks = [
        steps(StepLoader(Positions(), batch_size=8, micro_batch_size=micro, rank=rank, world=world), 24 // world)
        for rank in range(world)
    ]
    alone = steps(StepLoader(Positions(), batch_size=8, micro_batch_size=micro), 24)
    together = Counter(position for rank in ranks for batch in rank for position in batch)
    in_one = [position for batch in alone for position in batch]
    assert together == Counter(in_one) and in_one == list(range(24 * micro))
    for step in range(24 * micro // 8):  # and step by step, not only in the end
        each = 8 // micro // world
        of_step = {position for rank in ranks for batch in rank[step * each : (step + 1) * each] for position in batch}
        assert of_step == set(range(step * 8, step * 8 + 8))


def test_start_skips_steps():
    whole = steps(StepLoader(Positions(), batch_size=6, micro_batch_size=3), 20)
    assert steps(StepLoader(Positions(), batch_size=6, micro_batch_size=3, start=5), 10) == whole[10:]


def test_micro_batches_of_any_size_are_the_same_examples():
    batches = [steps(StepLoader(Positions(), batch_size=12, micro_batch_size=m), 24 // m) for m in (1, 3, 4, 12)]
    assert all([p for batch in one for p in batch] == list(range(24)) for one in batches)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(BadInput, match=r"got 8, expected a multiple of micro_batch_size x ranks = 2 x 3"):
        StepLoader(Positions(), batch_size=8, micro_batch_size=2, world=3)


@pytest.mark.parametrize("make", [ClozePairs, lambda corpus: MaskedSentences(corpus, SalientMasking())])
def test_worker_processes_change_no_bit(make, spanned):
    examples = make(spanned)
    alone, shared = (
        list(itertools.islice(StepLoader(examples, batch_size=4, micro_batch_size=2, start=1, workers=workers), 6))
        for workers in (0, 2)
    )
    assert same_batches(shared, alone) and not same_batches(alone[:2], alone[2:4])
