"""Trainer and refresher give a passage the same vector, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_world import REAL_WORDS
from tiny_models import tiny_towers

from realm_train.index.snapshot import read_snapshot, write_snapshot
from realm_train.tasks.encode import autocast, evaluating, passage_encoder

PRECISIONS = pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])


def trained_towers(**settings):
    """Towers that are not what any seed gives, in training mode, with dropout."""
    noisy = REAL_WORDS | {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    towers = tiny_towers(config=noisy, **settings).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in towers.parameters():  # where they are untied, the two towers part
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return towers


@PRECISIONS
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_refreshers_vectors_are_the_trainers(corpus, tmp_path, precision, pooling, shared):
    ids = np.random.default_rng(0).permutation(len(corpus))
    towers = trained_towers(pooling=pooling, shared=shared)
    here = passage_encoder(towers.passage, corpus, max_length=64, precision=precision, batch=20)(ids)
    write_snapshot(tmp_path, step=7, tensors=towers.passage.state_dict())
    fresh = tiny_towers(seed=1, config=REAL_WORDS, pooling=pooling)
    fresh.passage.load_state_dict(read_snapshot(tmp_path / "s000007").tensors)
    there = passage_encoder(fresh.passage, corpus, max_length=64, precision=precision, batch=20)(ids)
    assert here.dtype == torch.float32 and here.abs().sum() > 0 and torch.equal(here, there)


@PRECISIONS
def test_vectors_are_those_of_the_training_step_in_evaluation_mode(corpus, precision):
    towers, ids = trained_towers(), np.array([5, 2, 40, 17])
    encoded = passage_encoder(towers.passage, corpus, max_length=64, precision=precision)(ids)
    with evaluating(towers), autocast("cpu", precision):
        by_length = ids[np.argsort(np.diff(corpus.token_offsets)[ids], kind="stable")]
        expected = towers.passage(corpus.sequences(by_length, 64))
    places = [by_length.tolist().index(passage) for passage in ids.tolist()]
    assert torch.equal(encoded, expected[places])


def test_vectors_come_in_the_order_of_the_ids_whatever_the_batches(corpus):
    tower, ids = trained_towers().passage, np.random.default_rng(1).integers(0, len(corpus), 50)
    one = passage_encoder(tower, corpus, max_length=64, batch=1)(ids)
    many = passage_encoder(tower, corpus, max_length=64, batch=512)(ids)
    torch.testing.assert_close(one, many, rtol=0, atol=1e-5)
    with evaluating(tower):
        alone = torch.cat([tower(corpus.sequences(ids[row : row + 1], 64)) for row in range(50)])
    torch.testing.assert_close(one, alone, rtol=0, atol=0)
    assert passage_encoder(tower, corpus, max_length=64)(ids[:0]).shape == (0, 16)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back(corpus, training):
    tower = trained_towers().passage.train(training)
    vectors = passage_encoder(tower, corpus, max_length=64)(np.arange(3))
    assert tower.training == tower.encoder.training == training and not vectors.requires_grad
    with pytest.raises(RuntimeError, match="on purpose"), evaluating(tower):
        assert not tower.training and not torch.is_grad_enabled()
        raise RuntimeError("on purpose")
    assert tower.training == training and torch.is_grad_enabled()


@pytest.mark.parametrize(
    "precision, dtype", [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)]
)
def test_autocast_follows_lightnings_names(precision, dtype):
    with autocast("cpu", precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
