"""Two ranks that train together: one sees an index late, damaged or not at all, and both use the same one at every
step, without a collective that waits for anybody."""

from __future__ import annotations

import pathlib
import threading
import time

import pytest
import torch
import torch.distributed as dist
from light_run import (
    DIM,
    LightRun,
    Passages,
    lines,
    make_encode,
    rolled_vectors,
    use_light_encoder,
    vectors_at,
)
from two_ranks import on_two_ranks

from realm_train.callbacks.adoption import refresher
from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.index.exact import Exact
from realm_train.index.store import IndexStore
from realm_train.index.worker import follow

LATE = 1.2  # seconds after rank 0 that rank 1 sees a version
STEP = 0.02  # seconds
JOB = {"mode": "job", "every": 4, "keep": 99, "shard_size": 16, "patience_seconds": 20.0}


def on_a_rank(folder) -> dict:
    """Every scenario, one after another in the same two processes; what each rank has to say of it."""
    use_light_encoder()
    scenarios = (late, late_with_a_lag, one_cannot_open, damaged, blocked, inline, rolling, written_back, resumed)
    return {scenario.__name__: scenario(folder / scenario.__name__) for scenario in scenarios}


def late(folder) -> dict:
    run = begin(folder, RefreshPlan(**JOB))
    with worker(run), late_sight():
        return story(run, adoptions=2)


def late_with_a_lag(folder) -> dict:
    run = begin(folder, RefreshPlan(**JOB, adopt_lag=3))
    with worker(run), late_sight():
        return story(run, steps=14)


def one_cannot_open(folder) -> dict:
    run = begin(folder, RefreshPlan(**JOB))
    open_it, refused = run.callback._open, []

    def sometimes(version, **settings):
        if dist.get_rank() == 1 and len(refused) < 2:
            refused.append(version)
            raise OSError("stale file handle")
        return open_it(version, **settings)

    run.callback._open = sometimes
    with worker(run):
        return story(run, adoptions=1) | {"refused": refused}


def damaged(folder) -> dict:
    run = begin(folder, RefreshPlan(**JOB))
    with worker(run, spoil=1):
        return story(run, adoptions=1) | {"aside": len(list((folder / "index").glob("refused-*")))}


def blocked(folder) -> dict:
    run = begin(folder, RefreshPlan(**JOB, max_age_steps=6, on_max_age="block"))
    with worker(run, slow=0.1), late_sight():
        return story(run, steps=20)


def inline(folder) -> dict:
    run = begin(folder, RefreshPlan(mode="inline", every=4, shard_size=16))
    return story(run, steps=10)


def rolling(folder) -> dict:
    run = begin(folder, RefreshPlan(mode="rolling", every=5))
    return story(run, steps=12)


def written_back(folder) -> dict:
    """Each rank has its own candidates, and one in common: the last rank's counts."""
    run = begin(folder, RefreshPlan(mode="inline", every=50, write_back=True))
    for step in range(1, 4):
        mine = torch.tensor([9, 10 * step + dist.get_rank()] if dist.get_rank() else [9, 10 * step, 90 + step])
        run.task.kept.append((mine, torch.full((len(mine), DIM), float(100 * dist.get_rank() + step))))
        run.step()
    return {"vectors": run.task.retrieval.index.vectors}


def resumed(folder) -> dict:
    run = begin(folder, RefreshPlan(**JOB, adopt_lag=3))
    with worker(run):
        story(run, steps=9)
        dist.barrier()
        return story(begin(folder, run.plan), steps=14)


def begin(folder, plan: RefreshPlan) -> LightRun:
    folder.mkdir(exist_ok=True)
    run = LightRun(folder, plan)
    run.start()
    return run


def story(run: LightRun, *, steps: int = 0, adoptions: int = 0) -> dict:
    """Steps until so many are done, or so many versions adopted; what each step trained with next, and how long the
    longest took."""
    longest, versions = 0.0, {run.callback.version}
    while run.trainer.global_step < (steps or 5000) and (not adoptions or len(versions) <= adoptions):
        started = time.monotonic()
        versions.add(run.step()["version"])
        longest = max(longest, time.monotonic() - started)
        time.sleep(STEP)
    name = "steps.jsonl" if dist.get_rank() == 0 else "steps-1.jsonl"
    told = {"lines": lines(run.folder / name), "longest": longest}
    return told | {"vectors": run.task.retrieval.index.vectors.clone()}


class worker:
    """The refresh worker, a thread of rank 0; it damages the first versions that it publishes."""

    def __init__(self, run: LightRun, *, spoil: int = 0, slow: float = 0.0) -> None:
        self.ended, self.slow = threading.Event(), slow
        work = refresher(SpoilingStore(run.folder / "index", spoil), Passages(), DIM, run.plan, Exact())
        snapshots = run.callback.snapshots
        self.thread = threading.Thread(
            target=follow,
            args=(snapshots, work, self.make),
            kwargs={"poll_seconds": 0.01, "done": self.ended.is_set, "heartbeat": snapshots / "heartbeat.json"},
            daemon=True,
        )

    def make(self, tensors):
        encode = make_encode(tensors)
        return lambda ids: time.sleep(self.slow) or encode(ids)

    def __enter__(self):
        if dist.get_rank() == 0:
            self.thread.start()

    def __exit__(self, kind, error, trace):
        if error is None:
            dist.barrier()
        self.ended.set()
        if dist.get_rank() == 0:
            self.thread.join()


class SpoilingStore(IndexStore):
    def __init__(self, root, spoil: int) -> None:
        super().__init__(root)
        self.spoil = spoil

    def _publish_next(self, folder, manifest) -> int:
        if self.spoil:
            self.spoil -= 1
            (folder / "embeddings.npy").write_bytes(b"rubbish")
        return super()._publish_next(folder, manifest)


class late_sight:
    """Rank 1 sees a version only some time after it was published, as over a network file system."""

    def __enter__(self):
        self.exists, self.versions = pathlib.Path.exists, IndexStore.versions
        if dist.get_rank() == 1:
            pathlib.Path.exists = lambda path, **settings: visible(path) and self.exists(path, **settings)
            IndexStore.versions = lambda store: [
                version for version in self.versions(store) if visible(store.folder(version) / "manifest.json")
            ]

    def __exit__(self, *error):
        pathlib.Path.exists, IndexStore.versions = self.exists, self.versions


def visible(path: pathlib.Path) -> bool:
    try:
        return path.name != "manifest.json" or time.time() - path.stat().st_mtime > LATE
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ddp")
    return on_two_ranks(on_a_rank, folder, folder)


PROCESS = ("late", "late_with_a_lag", "one_cannot_open", "damaged", "blocked", "inline", "rolling", "resumed")


@pytest.mark.parametrize("scenario", PROCESS)
def test_both_ranks_have_the_same_index_at_every_step(told, scenario):
    """To the bit: every step has checked the vectors against those of the step that the version says."""
    ours, theirs = (rank[scenario] for rank in told)
    assert ours["lines"] == theirs["lines"] and torch.equal(ours["vectors"], theirs["vectors"])


def versions(told, scenario) -> list[int]:
    return [line["trained_step"] for line in told[0][scenario]["lines"]]


def test_training_goes_on_while_one_rank_looks_for_the_version(told):
    trained = versions(told, "late")
    assert trained == sorted(trained) and len(set(trained)) == 3
    assert trained.count(0) > 4 + 5  # many steps after the snapshot of step 4 ...
    assert max(rank["late"]["longest"] for rank in told) < LATE  # ... none of which has waited


@pytest.mark.parametrize("scenario", ["late_with_a_lag", "resumed"])
def test_with_a_lag_both_wait_and_swap_at_its_step(told, scenario):
    assert [(line["step"], line["trained_step"]) for line in told[0][scenario]["lines"][-5:]] == [
        (step, (step - 3) // 4 * 4) for step in range(10, 15)
    ]


def test_a_version_that_one_rank_cannot_open_is_adopted_by_neither(told):
    refused, trained = told[1]["one_cannot_open"]["refused"], versions(told, "one_cannot_open")
    used = {line["version"] for line in told[0]["one_cannot_open"]["lines"]}
    assert len(refused) == 2 and not used & set(refused) and max(trained) > 0


def test_a_damaged_version_is_put_aside_once_and_made_again(told):
    assert told[0]["damaged"]["aside"] == 1 and max(versions(told, "damaged")) > 0


def test_both_block_until_the_index_is_young_enough(told):
    assert max(line["age"] for line in told[0]["blocked"]["lines"]) <= 6


def test_rows_that_the_ranks_encode_in_turn_reach_both(told):
    for rank in told:
        assert torch.equal(rank["rolling"]["vectors"], rolled_vectors(12, every=5))


def test_what_each_rank_writes_back_reaches_both(told):
    expected = vectors_at(0)
    for step in range(1, 4):
        expected[[10 * step, 90 + step]] = float(step)
        expected[[9, 10 * step + 1]] = 100.0 + step
    for rank in told:
        assert torch.equal(rank["written_back"]["vectors"], expected)
