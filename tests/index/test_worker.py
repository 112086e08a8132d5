import json
import os
import time

import numpy as np
import pytest
import torch

from realm_train.errors import BadInput
from realm_train.index import worker
from realm_train.index.refresher import Refresher
from realm_train.index.snapshot import tower_hash, write_snapshot
from realm_train.index.store import IndexStore

COUNT, DIM = 20, 3


def weights(value):
    return {"scale": torch.full((1,), float(value))}


def table(value):
    return torch.arange(COUNT * DIM).reshape(COUNT, DIM) * float(value)


def make_encode(tensors):
    return lambda ids: table(tensors["scale"].item())[torch.from_numpy(ids)]


class Run:
    """A run's folders, and a worker that follows them."""

    def __init__(self, root):
        self.snapshots, self.heartbeat = root / "snapshots", root / "heartbeat.json"
        self.store = IndexStore(root / "index")
        self.refresher = Refresher(self.store, corpus_hash="c", count=COUNT, dim=DIM, shard_size=8, keep=10)

    def write(self, step, **settings):
        write_snapshot(self.snapshots, step=step, tensors=weights(step), **settings)

    def follow(self, *, done, make_encode=make_encode):
        worker.follow(
            self.snapshots, self.refresher, make_encode, poll_seconds=0.01, done=done, heartbeat=self.heartbeat
        )

    def steps(self):
        return [self.store.manifest(version)["trained_step"] for version in self.store.versions()]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def after(calls):
    """Training that ends at this many looks."""
    looks = iter([False] * calls)
    return lambda: next(looks, True)


def test_only_the_newest_snapshot_is_encoded_and_missed_ones_are_skipped(run):
    for step in (100, 200, 300):
        run.write(step, keep=3)
    run.follow(done=after(20))
    assert run.steps() == [300]
    manifest, loaded = run.store.load(0, corpus="c", tower=tower_hash(weights(300)))
    np.testing.assert_array_equal(loaded, table(300).numpy())


def test_each_new_snapshot_becomes_a_version(run):
    looks = []

    def done():
        looks.append(run.store.latest_step())
        if len(looks) > 500:
            raise AssertionError(f"stuck at {run.steps()}")
        if run.steps() == [0, 50, 120]:
            return True
        due = {None: 0, 0: 50, 50: 120}[run.store.latest_step()]
        if not (run.snapshots / f"s{due:06d}").exists():
            run.write(due)
        return False

    run.follow(done=done)
    assert run.store.load(2, corpus="c", tower=tower_hash(weights(120)))[1][1, 0] == table(120)[1, 0]


def test_an_older_snapshot_than_the_last_version_is_not_encoded(run):
    run.write(300)
    run.follow(done=after(20))
    run.write(200)
    run.follow(done=after(20))
    assert run.steps() == [300]


def test_a_failure_is_logged_and_tried_again(run, caplog):
    failures = iter([RuntimeError("out of memory"), RuntimeError("again")])

    def sometimes(tensors):
        for failure in failures:
            raise failure
        return make_encode(tensors)

    run.write(100)
    run.follow(done=after(20), make_encode=sometimes)
    assert run.steps() == [100]
    assert "failed (1 of 3 in a row)" in caplog.text and "out of memory" in caplog.text


def test_a_failure_that_repeats_three_times_ends_the_worker_and_keeps_the_index(run):
    run.write(100)
    run.follow(done=after(20))
    attempts = []

    def always(tensors):
        attempts.append(tensors)
        return lambda ids: table(torch.nan)[torch.from_numpy(ids)]

    run.write(200)
    with pytest.raises(BadInput, match="NaN"):
        run.follow(done=lambda: False, make_encode=always)
    assert len(attempts) == 3 and run.steps() == [100]
    np.testing.assert_array_equal(run.store.load(0, corpus="c")[1], table(100).numpy())


def test_a_success_forgets_earlier_failures(run):
    outcomes = iter([False, False, True] * 3)

    def flaky(tensors):
        if not next(outcomes):
            raise RuntimeError("passing trouble")
        return make_encode(tensors)

    def done():
        if run.steps() == [100, 200, 300]:
            return True
        run.write(100 * (len(run.store.versions()) + 1))
        return False

    run.follow(done=done, make_encode=flaky)
    assert run.steps() == [100, 200, 300]


def test_a_damaged_snapshot_is_a_failure_like_any_other(run):
    run.write(100)
    (run.snapshots / "s000100" / "weights.safetensors").write_bytes(b"rubbish")
    with pytest.raises(BadInput, match="s000100"):
        run.follow(done=lambda: False)
    assert run.steps() == []


def test_training_that_ends_does_not_wait_for_the_refresh(run):
    asked, ended = [], []

    def counting(tensors):
        def encode(ids):
            asked.append(ids[0])
            ended.append(True)
            return make_encode(tensors)(ids)

        return encode

    run.write(100)
    run.follow(done=lambda: bool(ended), make_encode=counting)
    assert asked == [0] and run.steps() == []
    asked.clear()
    run.follow(done=lambda: run.steps() == [100], make_encode=counting)
    assert asked == [8, 16]


def test_done_is_looked_at_first(run):
    run.write(100)
    run.follow(done=lambda: True)
    assert run.steps() == [] and not run.heartbeat.exists()


def test_the_heartbeat_says_who_is_doing_what(run):
    beats = []

    def watching(tensors):
        def encode(ids):
            beats.append(json.loads(run.heartbeat.read_text()))
            return make_encode(tensors)(ids)

        return encode

    before = time.time()
    run.write(100)
    run.follow(done=after(8), make_encode=watching)
    assert [(beat["state"], beat["step"], beat["shard"], beat["shards"]) for beat in beats] == [
        ("encoding", 100, shard, 3) for shard in range(3)
    ]
    last = json.loads(run.heartbeat.read_text())
    assert last["state"] == "waiting" and last["pid"] == os.getpid() and before <= last["time"] <= time.time()


def test_done_when_the_file_is_there_or_the_parent_is_gone(tmp_path):
    done = worker.done_when(tmp_path / "DONE", parent=os.getppid())
    assert not done()
    (tmp_path / "DONE").touch()
    assert done()
    assert worker.done_when(tmp_path / "nothing", parent=-1)()
    assert not worker.done_when(tmp_path / "nothing")()
