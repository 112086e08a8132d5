"""The index at step boundaries: what is adopted when, what a resumed run puts aside, whose threads encode."""

import shutil
import time

import pytest
import torch
from tiny_run import before_step, equal, facts, opened, overrides, series, spans_folder, threads, train, weights  # noqa: F401

from realm_train.callbacks import refresh
from realm_train.index.snapshot import latest_snapshot, read_snapshot
from realm_train.index.store import IndexStore

pytestmark = pytest.mark.filterwarnings("ignore:cold start")
SIX = ["stages=[pretrain]", "pretrain.steps=6", "refresh.every=2", "refresh.keep=9", "checkpoints.every=3"]


def steps(run):
    """The trained step of every version, oldest first."""
    store = IndexStore(run / "index")
    return [store.manifest(version)["trained_step"] for version in store.versions()]


def rewind(run, step):
    """As if the run had been killed just after this step's checkpoint."""
    folder = run / "checkpoints" / "pretrain"
    for path in [folder / "DONE", *folder.glob("step-*.ckpt")]:
        if path.name == "DONE" or int(path.stem.removeprefix("step-")) > step:
            path.unlink()


def test_an_inline_refresh_is_adopted_at_once_and_the_last_is_of_the_final_weights(train):  # noqa: F811
    run = train(*SIX)
    assert steps(run) == [0, 2, 4, 6]
    ages = [event["index/age_steps"] for event in facts(run, "pretrain") if "retrieval/leaks" in event]
    assert ages == [1.0, 0.0, 1.0, 0.0, 1.0, 2.0]


def test_without_a_final_refresh_the_index_in_use_is_the_last(train):  # noqa: F811
    assert steps(train(*SIX, "refresh.final=false")) == [0, 2, 4]


def test_the_newest_versions_are_kept_and_those_that_checkpoints_were_trained_with(train):  # noqa: F811
    run = train(*SIX, "refresh.keep=1")
    assert [path.stem for path in sorted((run / "checkpoints" / "pretrain").glob("*.ckpt"))] == [
        "step-000003",
        "step-000006",
    ]
    assert IndexStore(run / "index").versions() == [1, 2, 3] and steps(run) == [2, 4, 6]
    rewind(run, 3)
    whole = facts(run, "pretrain")
    train(*SIX, "refresh.keep=1", "ckpt_path=last")  # the version of that checkpoint is still there
    assert facts(run, "pretrain") == whole


def test_a_resumed_run_puts_aside_what_later_weights_left_and_ends_the_same(train, capsys):  # noqa: F811
    run = train(*SIX)
    whole = shutil.copytree(run, run.parent / "whole")
    rewind(run, 3)
    later = run / "snapshots" / "s000099"
    later.mkdir(parents=True)
    (later / "manifest.json").write_text("{}")
    capsys.readouterr()
    train(*SIX, "ckpt_path=last")
    said = capsys.readouterr().out
    for name in ("v000002", "v000003", "s000099"):
        (aside,) = [path for path in run.rglob(f"discarded-{name}-*") if path.is_dir()]
        assert f"index: {aside.name} is of later weights" in said and any(aside.iterdir())
    assert steps(run) == steps(whole) and not later.exists()
    assert facts(run, "pretrain") == facts(whole, "pretrain")
    assert equal(weights(run, "pretrain"), weights(whole, "pretrain"))


def test_a_run_killed_before_its_first_checkpoint_starts_again_without_its_leftovers(train):  # noqa: F811
    run = train(*SIX)
    whole = shutil.copytree(run, run.parent / "whole")
    shutil.rmtree(run / "checkpoints" / "pretrain")
    train(*SIX, "ckpt_path=last")
    assert IndexStore(run / "index").versions() == [0, 1, 2, 3]
    assert facts(run, "pretrain") == facts(whole, "pretrain")


class FakeWorker:
    """A refresh process that answers when it is told to."""

    def __init__(self, run, plan):
        self.run, self.plan, self.living, self.stopped = run, plan, True, False
        FakeWorker.last = self

    def tend(self, published):
        return self.living

    def stop(self):
        self.stopped = True

    def publish(self):
        while (path := latest_snapshot(self.run / "snapshots")) is None:  # it is on its way to the disk
            time.sleep(0.01)
        snapshot = read_snapshot(path)
        store = IndexStore(self.run / "index")
        manifest = store.manifest(0)
        vectors = store.load(0, corpus=manifest["corpus"])[1].copy()
        kept = {name: manifest[name] for name in ("count", "dim", "dtype", "corpus")}
        store.publish([vectors], trained_step=snapshot.step, tower=snapshot.tower, seconds=1.0, keep=9, **kept)


@pytest.fixture
def lent(monkeypatch, before_step):  # noqa: F811
    """The trainer's threads before each of eight steps, and what sets something else to happen before one of them."""
    monkeypatch.setattr(refresh, "WorkerProcess", FakeWorker)
    torch.set_num_threads(1)  # really: two threads on a busy machine wait for each other
    told, counts = [1], []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: told[-1])

    def watch(step, then=lambda: None):
        def hook():
            counts.append(torch.get_num_threads())
            then()

        before_step[step] = hook

    for step in range(8):
        watch(step)
    return counts, watch


PROCESS = ["stages=[pretrain]", "refresh=process", "refresh.every=3", "pretrain.steps=8", "threads=2"]


def test_a_worker_on_the_cpu_borrows_threads_from_snapshot_to_adoption(train, lent, opened):  # noqa: F811
    counts, watch = lent
    watch(3, lambda: FakeWorker.last.publish())
    watch(4, opened)  # opened beside step 4, adopted after step 5
    run = train(*PROCESS, "refresh.final=false")
    assert counts == [2, 2, 2, 1, 1, 2, 1, 1] and torch.get_num_threads() == 2
    assert [value for _, value in series(run, "pretrain", "index/version")][-1] == 1
    ages = [event["index/age_steps"] for event in facts(run, "pretrain") if "retrieval/leaks" in event]
    assert ages == [1, 2, 3, 4, 2, 3, 4, 5] and FakeWorker.last.stopped


def test_a_dead_worker_gives_its_threads_back(train, lent):  # noqa: F811
    counts, watch = lent
    watch(4, lambda: setattr(FakeWorker.last, "living", False))
    run = train(*PROCESS, "refresh.every=3")
    assert counts == [2, 2, 2, 1, 1, 2, 2, 2]
    assert steps(run) == [0, 8]


def test_a_later_snapshot_is_taken_while_the_worker_is_busy_and_only_two_are_kept(train, lent):  # noqa: F811
    run = train(*PROCESS, "refresh.every=2", "refresh.final=false")
    assert sorted(path.name for path in (run / "snapshots").glob("s*")) == ["s000004", "s000006"]
