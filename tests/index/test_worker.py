import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from realm_train.errors import BadInput
from realm_train.index import worker
from realm_train.index.heartbeat import Heartbeat
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
    assert run.steps() == [] and json.loads(run.heartbeat.read_text())["state"] == "ended"


def test_the_heartbeat_says_who_is_doing_what(run):
    beats = []

    def watching(tensors):
        def encode(ids):
            beats.append(json.loads(run.heartbeat.read_text()))
            return make_encode(tensors)(ids)

        return encode

    before = time.time()
    run.write(100)
    waiting = []

    def done():
        waiting.append(json.loads(run.heartbeat.read_text())["state"])
        return waiting[-2:] == ["waiting", "waiting"]

    run.follow(done=done, make_encode=watching)
    assert [(beat["state"], beat["step"], beat["shard"], beat["shards"]) for beat in beats] == [
        ("encoding", 100, shard, 3) for shard in range(3)
    ]
    last = json.loads(run.heartbeat.read_text())
    assert last["state"] == "ended" and last["pid"] == os.getpid() and before <= last["time"] <= time.time()


def test_done_when_the_file_is_there_or_the_parent_is_gone(tmp_path):
    done = worker.done_when(tmp_path / "DONE", parent=os.getppid())
    assert not done()
    (tmp_path / "DONE").touch()
    assert done()
    assert worker.done_when(tmp_path / "nothing", parent=-1)()
    assert not worker.done_when(tmp_path / "nothing")()


def test_a_long_shard_does_not_silence_the_heartbeat(tmp_path):
    path = tmp_path / "heartbeat.json"
    with Heartbeat(path, seconds=0.01) as pulse:
        pulse.say(state="encoding", shard=0)
        seen = {path.read_text()}
        until = time.monotonic() + 5
        while len(seen) < 5 and time.monotonic() < until:
            seen.add(path.read_text())
    assert len(seen) == 5 and {json.loads(beat)["shard"] for beat in seen} == {0}


def test_a_silent_trainer_is_noticed_whatever_the_clocks_say(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    trainer = tmp_path / "trainer.json"
    done = worker.done_when(tmp_path / "DONE", trainer=trainer, patience_seconds=60.0)
    now[0] += 59
    trainer.write_text('{"time": 5000}')
    assert not done()
    now[0] += 59
    trainer.write_text('{"time": -5000}')  # its clock has jumped back: a sign of life all the same
    assert not done()
    now[0] += 61
    assert done()


def test_two_workers_on_one_run_are_told_apart(tmp_path):
    lock = tmp_path / "worker.lock"
    refused = pytest.raises(BadInput, match=f"another worker .*{os.getpid()}")
    with worker.alone(lock), refused, worker.alone(lock, wait_seconds=0.0):
        raise AssertionError("both hold the lock")
    with worker.alone(lock, wait_seconds=0.0):
        pass


def test_a_killed_worker_leaves_no_lock_behind(tmp_path):
    hold = f"with alone({str(tmp_path / 'lock')!r}):\n print(1, flush=True); input()"
    hold = f"from realm_train.index.worker import alone\n{hold}"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.read(1) == b"1"
        with pytest.raises(BadInput), worker.alone(tmp_path / "lock", wait_seconds=0.0):
            pass
        holder.kill()
    with worker.alone(tmp_path / "lock", wait_seconds=0.0):
        pass


def test_ranks_share_the_shards_of_the_snapshot_that_rank_0_has_chosen(run):
    asked = {0: [], 1: []}

    def counting(rank):
        def make(tensors):
            def encode(ids):
                asked[rank].append(int(ids[0]))
                return make_encode(tensors)(ids)

            return encode

        return make

    def follow(rank):
        worker.follow(
            run.snapshots,
            run.refresher,
            counting(rank),
            poll_seconds=0.01,
            done=lambda: run.steps() == [100, 200],
            heartbeat=run.heartbeat.with_name(f"heartbeat-{rank}"),
            rank=rank,
            world=2,
        )

    run.write(100)
    helper = threading.Thread(target=follow, args=(1,))
    leader = threading.Thread(target=follow, args=(0,))
    helper.start()
    leader.start()
    until = time.monotonic() + 20
    while run.steps() != [100] and time.monotonic() < until:
        time.sleep(0.01)
    run.write(200)
    for thread in (helper, leader):
        thread.join(timeout=20)
    assert run.steps() == [100, 200] and asked == {0: [0, 16, 0, 16], 1: [8, 8]}
    np.testing.assert_array_equal(run.store.load(1, corpus="c")[1], table(200).numpy())
