"""Rows that are newer than the index version in use, against a table that is kept by hand."""

import numpy as np
import pytest
import torch

from realm_train.callbacks.written import NEVER, Written
from realm_train.index.exact import ExactIndex

COUNT, DIM = 12, 3


def version(step, dtype=torch.float32):
    """A version's index: row i is 100 * step + i."""
    rows = torch.arange(COUNT)[:, None].expand(COUNT, DIM) + 100.0 * step
    return ExactIndex(rows.clone(), dtype=dtype)


def rows_of(step, ids):
    """What weights after so many steps make of these passages; halves tell them from a version's."""
    return ids[:, None].expand(-1, DIM) + 100.0 * step + 0.5


def test_of_a_passage_that_comes_twice_the_last_vector_counts():
    index, written = version(0), Written(COUNT)
    ids = torch.tensor([4, 2, 4, 4])
    vectors = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None].expand(-1, DIM)
    written.write(index, ids, vectors, step=7)
    assert index.vectors[[4, 2, 3]].tolist() == [[4.0] * DIM, [2.0] * DIM, [3.0] * DIM]
    assert [written.steps[4], written.steps[2], written.steps[3]] == [7, 7, NEVER]


def test_nothing_to_write_changes_nothing():
    index, written = version(0), Written(COUNT)
    written.write(index, torch.empty(0, dtype=torch.int64), torch.empty(0, DIM), step=7)
    assert torch.equal(index.vectors, version(0).vectors) and (written.steps == NEVER).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_any_history_gives_the_newest_vector_of_every_passage(dtype):
    """Random writes, adoptions of versions that are some steps old, and kills with a resume from a checkpoint."""
    rng = np.random.default_rng(0)
    index, written, trained = version(0, dtype), Written(COUNT), 0
    expected, steps = version(0, dtype).vectors.clone(), np.zeros(COUNT, dtype=int)  # by hand
    for step in range(1, 200):
        ids = torch.from_numpy(rng.integers(0, COUNT, rng.integers(0, 5)))
        written.write(index, ids, rows_of(step, ids), step=step)
        expected[ids], steps[ids.numpy()] = rows_of(step, ids).to(dtype), step
        if step % 7 == 0:
            trained, new = step - int(rng.integers(0, 5)), version(step, dtype)
            older = steps <= trained
            expected[older], steps[older] = new.vectors[older], trained
            written.carry(index, new, trained_step=trained)
            index = new
        if step % 11 == 0:
            state = written.state(index)
            index, written = version(step // 7 * 7, dtype), Written(COUNT)
            written.restore(index, state)
        assert torch.equal(index.vectors, expected)
        assert (np.where(written.steps == NEVER, trained, written.steps) == steps).all()


def test_a_checkpoint_holds_only_what_is_not_of_the_version():
    index, written = version(0), Written(COUNT)
    written.write(index, torch.tensor([9, 1]), rows_of(3, torch.tensor([9, 1])), step=3)
    state = written.state(index)
    assert state["ids"].tolist() == [1, 9] and state["steps"].tolist() == [3, 3]
    assert torch.equal(state["vectors"], rows_of(3, torch.tensor([1, 9])))
