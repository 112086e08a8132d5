"""An index whose rows are encoded anew in turn: how old each may be, and what a killed run finds again."""

import shutil

import pytest
import torch
from light_run import COUNT, LightRun, last_turns, rolled_vectors, use_light_encoder, vectors_at
from tiny_run import equal, facts, overrides, series, spans_folder, threads, train, weights  # noqa: F401

from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.callbacks.written import Written
from realm_train.data.corpus import Corpus
from realm_train.index.store import IndexStore

pytestmark = pytest.mark.filterwarnings("ignore:cold start")


@pytest.fixture(autouse=True)
def light(monkeypatch, request):
    if "train" not in request.fixturenames:
        use_light_encoder(monkeypatch.setattr)


@pytest.mark.parametrize("every", [1, 5, COUNT + 7])
def test_each_row_is_of_its_last_turn_and_none_is_older_than_every_says(every, tmp_path):
    run = LightRun(tmp_path, RefreshPlan(mode="rolling", every=every))
    run.start()
    for step in range(1, 2 * every + 3):
        age = run.step()["age"]
        assert torch.equal(run.task.retrieval.index.vectors, rolled_vectors(step, every=every))
        assert step - last_turns(step, every).min() <= age < every


@pytest.mark.parametrize("killed_at", [3, 5, 9, 14])
def test_a_killed_run_finds_every_row_as_its_checkpoint_had_it(killed_at, tmp_path):
    plan = RefreshPlan(mode="rolling", every=6)
    run = LightRun(tmp_path, plan, checkpoint_every=2)
    run.start()
    for _ in range(killed_at):
        run.step()
    again = LightRun(tmp_path, plan, checkpoint_every=2)
    again.start()
    resumed_at = again.trainer.global_step
    assert resumed_at == killed_at // 2 * 2
    assert torch.equal(again.task.retrieval.index.vectors, rolled_vectors(resumed_at, every=6))
    for step in range(resumed_at + 1, resumed_at + 15):
        again.step()
        assert torch.equal(again.task.retrieval.index.vectors, rolled_vectors(step, every=6))


def test_the_version_on_disk_is_not_written_to(tmp_path):
    run = LightRun(tmp_path, RefreshPlan(mode="rolling", every=3))
    run.start()
    for _ in range(7):
        run.step()
    assert torch.equal(run.callback._open(0)[1].vectors, vectors_at(0))
    run.end()
    assert run.callback.trained_step == 7 and torch.equal(run.callback._open(1)[1].vectors, vectors_at(7))


@pytest.fixture
def kept(monkeypatch):
    """The index after each step, as it was written to."""
    kept, write = {}, Written.write

    def keeping(self, index, ids, vectors, *, step):
        write(self, index, ids, vectors, step=step)
        kept[step] = index.vectors.clone()

    monkeypatch.setattr(Written, "write", keeping)
    return kept


def test_without_learning_a_cycle_leaves_what_an_inline_refresh_gives(train, kept, spans_folder):  # noqa: F811
    """Up to rounding: how many passages go through the tower at once decides how its products are summed, so the last
    bits of some vectors differ from those of a refresh in one go."""
    still = ["stages=[pretrain]", "pretrain.lr=0.0", "pretrain.steps=4", "refresh.final=false"]
    run = train(*still, "refresh=rolling", "refresh.every=3", "refresh.dtype=float32")
    inline = torch.from_numpy(IndexStore(run / "index").load(0, corpus=Corpus(spans_folder).hash)[1])
    assert sorted(kept) == [1, 2, 3, 4]
    torch.testing.assert_close(kept[3], inline, rtol=0, atol=5e-6)
    assert max(age for _, age in series(run, "pretrain", "index/age_steps")) <= 3


ROLLING = [
    "stages=[pretrain]",
    "refresh=rolling",
    "refresh.every=3",
    "pretrain.steps=5",
    "checkpoints.keep=9",
    "checkpoints.every=2",
]


def test_killed_and_resumed_equals_uninterrupted(train):  # noqa: F811
    run = train(*ROLLING, "checkpoints.keep=9")
    whole = shutil.copytree(run, run.parent / "whole")
    folder = run / "checkpoints" / "pretrain"
    for name in ("DONE", "step-000004.ckpt", "step-000005.ckpt"):
        (folder / name).unlink(missing_ok=True)
    assert (folder / "step-000002.ckpt").exists()
    train(*ROLLING, "checkpoints.keep=9", "ckpt_path=last")
    assert facts(run, "pretrain") == facts(whole, "pretrain")
    assert equal(weights(run, "pretrain"), weights(whole, "pretrain"))
