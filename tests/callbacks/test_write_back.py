"""Vectors that a training step has computed anyway, put into the index at once."""

import shutil

import pytest
import torch
from light_run import COUNT, DIM, LightRun, use_light_encoder, vectors_at
from tiny_run import equal, facts, overrides, spans_folder, threads, train, weights  # noqa: F401

from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.callbacks.written import Written
from realm_train.data.corpus import Corpus
from realm_train.index.store import IndexStore
from realm_train.models.realm import Realm

pytestmark = pytest.mark.filterwarnings("ignore:cold start")
SMALL = ["stages=[pretrain]", "refresh.every=3", "refresh.dtype=float32", "refresh.write_back=true"]


@pytest.fixture
def written(monkeypatch):
    """What was written: (ids, vectors, step), step by step, and the index afterwards."""
    calls, write = [], Written.write

    def keeping(self, index, ids, vectors, *, step):
        write(self, index, ids, vectors, step=step)
        calls.append((ids.clone(), vectors.clone(), step, index.vectors.clone()))

    monkeypatch.setattr(Written, "write", keeping)
    return calls


def test_without_learning_and_dropout_what_is_written_back_is_what_was_there(train, written, spans_folder):  # noqa: F811
    """Up to the last bits, which depend on what a passage is computed together with."""
    run = train(*SMALL, "pretrain.lr=0.0", "model.dropout=0.0", "pretrain.steps=3", "refresh.final=false")
    there = torch.from_numpy(IndexStore(run / "index").load(0, corpus=Corpus(spans_folder).hash)[1])
    assert len(written) == 3
    for ids, vectors, _, after in written:
        assert len(ids) > 4
        torch.testing.assert_close(vectors, there[ids], rtol=0, atol=5e-6)
        torch.testing.assert_close(after, there, rtol=0, atol=5e-6)


def test_what_is_written_is_what_training_embedded_and_says_of_which_weights(train, written, monkeypatch):  # noqa: F811
    """With dropout, too: the vectors of the very forward pass, of the weights before the step's update."""
    embedded, forward = [], Realm.forward

    def watching(self, batch, candidates, queries=None):
        output = forward(self, batch, candidates, queries)
        if self.training:
            embedded.append(output.vectors.detach().clone())
        return output

    monkeypatch.setattr(Realm, "forward", watching)
    train(*SMALL, "pretrain.steps=2", "refresh.final=false")
    assert [step for *_, step, _ in written] == [0, 1]
    for ids, vectors, step, after in written:
        rows = torch.cat([vectors[1:] for vectors in embedded[2 * step : 2 * step + 2]])  # row 0 is the null passage
        assert torch.equal(vectors, rows)
        last = {int(passage): row for row, passage in enumerate(ids)}
        assert torch.equal(after[list(last)], vectors[list(last.values())])


WHOLE = ["stages=[pretrain]", "refresh.every=3", "refresh.write_back=true", "pretrain.steps=5", "checkpoints.every=2"]


def test_killed_and_resumed_equals_uninterrupted(train):  # noqa: F811
    """At step 2 nothing but written rows tells the index from version 0; at step 4 they have outlived an adoption."""
    run = train(*WHOLE, "checkpoints.keep=9")
    whole = shutil.copytree(run, run.parent / "whole")
    for lost in (("000005", "000004"), ("000005",)):
        folder = run / "checkpoints" / "pretrain"
        for name in ("DONE", *(f"step-{step}.ckpt" for step in lost)):
            (folder / name).unlink(missing_ok=True)
        train(*WHOLE, "checkpoints.keep=9", "ckpt_path=last")
        assert facts(run, "pretrain") == facts(whole, "pretrain")
        assert equal(weights(run, "pretrain"), weights(whole, "pretrain"))


def test_an_inline_refresh_is_newer_than_whatever_was_written(tmp_path, monkeypatch):
    use_light_encoder(monkeypatch.setattr)
    run = LightRun(tmp_path, RefreshPlan(mode="inline", every=4, write_back=True))
    run.start()
    mark = torch.full((1, DIM), 7.0)
    for step in range(1, 4):
        run.task.kept.append((torch.tensor([step]), mark * step))
        run.step()
    index = run.task.retrieval.index.vectors
    assert [index[row, 0] for row in range(1, 4)] == [7.0, 14.0, 21.0]
    run.task.kept.append((torch.tensor([9]), mark))  # of the weights before the update of step 4, and so older
    run.step()
    assert torch.equal(run.task.retrieval.index.vectors, vectors_at(4, count=COUNT))
