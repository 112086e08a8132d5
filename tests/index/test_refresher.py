import errno
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from realm_train.errors import BadInput
from realm_train.index import aside, refresher
from realm_train.index.refresher import Refresher
from realm_train.index.store import IndexStore

COUNT, DIM, SHARD = 103, 5, 16  # 7 shards, the last of 7 passages


def table(seed=0):
    return torch.randn(COUNT, DIM, generator=torch.Generator().manual_seed(seed))


class Encode:
    """Looks vectors up, and remembers what it was asked for."""

    def __init__(self, vectors):
        self.vectors, self.calls = vectors, []

    def __call__(self, ids):
        self.calls.append(ids.tolist())
        return self.vectors[torch.from_numpy(ids)]


@pytest.fixture
def store(tmp_path):
    return IndexStore(tmp_path / "index")


def make(store, **changes):
    return Refresher(store, **({"corpus_hash": "corpus-a", "count": COUNT, "dim": DIM, "shard_size": SHARD} | changes))


def shards_of(calls):
    return [ids[0] // SHARD for ids in calls]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shard_size", [1, SHARD, COUNT, 4096])
def test_publishes_what_encoding_in_one_go_gives_bit_for_bit(store, dtype, shard_size):
    manifest = make(store, dtype=dtype, shard_size=shard_size).refresh(Encode(table()), step=40, tower="tower-a")
    _, loaded = store.load(manifest["version"], corpus="corpus-a", tower="tower-a")
    assert loaded.tobytes() == table().to(getattr(torch, dtype)).numpy().tobytes()
    assert (manifest["trained_step"], manifest["count"], manifest["dim"]) == (40, COUNT, DIM)
    assert [path.name for path in store.root.iterdir()] == ["v000000"]


def test_asks_for_every_passage_once_in_order_and_reports_progress(store):
    encode, progress, finished = Encode(table()), [], []
    make(store).refresh(
        encode, step=0, tower="t", progress=lambda done, total: progress.append((done, total)), on_shard=finished.append
    )
    assert sum(encode.calls, []) == list(range(COUNT)) and max(map(len, encode.calls)) == SHARD
    assert progress == [(16, 103), (32, 103), (48, 103), (64, 103), (80, 103), (96, 103), (103, 103)]
    assert finished == list(range(7))


def test_encodes_without_a_graph(store):
    seen = []

    def encode(ids):
        seen.append(torch.is_grad_enabled())
        return table().requires_grad_()[torch.from_numpy(ids)]

    make(store).refresh(encode, step=0, tower="t")
    assert not any(seen)
    np.testing.assert_array_equal(store.load(0, corpus="corpus-a")[1], table().numpy())


def test_keeps_the_last_versions(store):
    for step in range(5):
        make(store, keep=2).refresh(Encode(table(step)), step=step, tower=f"tower-{step}")
    assert store.versions() == [3, 4]


class Stop(Exception):
    pass


def stop_at(last):
    def on_shard(shard):
        if shard == last:
            raise Stop

    return on_shard


def test_an_interrupted_refresh_goes_on_where_it_was(store):
    with pytest.raises(Stop):
        make(store).refresh(Encode(table()), step=40, tower="t", on_shard=stop_at(3))
    assert store.versions() == []
    rest = Encode(table())
    make(store).refresh(rest, step=40, tower="t")
    assert shards_of(rest.calls) == [4, 5, 6]
    np.testing.assert_array_equal(store.load(0, corpus="corpus-a", tower="t")[1], table().numpy())


@pytest.mark.parametrize(
    ("settings", "tower"),
    [
        ({}, "tower-of-the-second"),
        ({"corpus_hash": "other"}, "tower-of-the-first"),
        ({"dtype": "float16"}, "tower-of-the-first"),
        ({"shard_size": 7}, "tower-of-the-first"),  # its shard 6 is as long as the last one of 16
    ],
)
def test_shards_of_other_weights_or_another_plan_are_never_used_and_are_cleaned_up(store, settings, tower):
    with pytest.raises(Stop):
        make(store).refresh(Encode(table(0)), step=40, tower="tower-of-the-first", on_shard=stop_at(6))
    encode = Encode(table(1))
    make(store, **settings).refresh(encode, step=40, tower=tower)
    assert sum(encode.calls, []) == list(range(COUNT))
    assert [path.name for path in store.root.iterdir()] == ["v000000"]


def test_a_damaged_shard_is_encoded_again(store):
    with pytest.raises(Stop):
        make(store).refresh(Encode(table()), step=40, tower="t", on_shard=stop_at(3))
    work = make(store).work_folder(step=40, tower="t")
    os.truncate(work / "shard-00001.npy", 150)
    (work / "shard-00002.npy").write_bytes(b"")
    np.save(work / "shard-00003.npy", np.zeros((SHARD, DIM + 1), dtype=np.float32))
    rest = Encode(table())
    make(store).refresh(rest, step=40, tower="t")
    assert shards_of(rest.calls) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(store.load(0, corpus="corpus-a")[1], table().numpy())


KILLED = """
import os, signal, sys, time, torch
from realm_train.index import store as store_module
from realm_train.index.refresher import Refresher
from realm_train.index.store import IndexStore

root, where, log = sys.argv[1:]
table = torch.randn(103, 5, generator=torch.Generator().manual_seed(0))

def encode(ids):
    with open(log, "a") as file:
        file.write(f"{ids[0]}\\n")
    if where == "encoding" and ids[0] == 4 * 16:
        time.sleep(60)
    return table[torch.from_numpy(ids)]

def die(*_):
    with open(log, "a") as file:
        file.write("publishing\\n")
    time.sleep(60)

if where == "publishing":
    store_module.aside.publish = die
Refresher(IndexStore(root), corpus_hash="corpus-a", count=103, dim=5, shard_size=16).refresh(encode, step=40, tower="t")
"""


@pytest.mark.parametrize(("where", "sign", "left"), [("encoding", "64", [4, 5, 6]), ("publishing", "publishing", [])])
def test_a_killed_refresh_goes_on_at_the_shard_it_was_at(store, tmp_path, where, sign, left):
    make(store).refresh(Encode(table(9)), step=0, tower="start")
    log = tmp_path / "calls"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(store.root), where, str(log)])
    while not log.exists() or sign not in log.read_text().split():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store.versions() == [0]
    np.testing.assert_array_equal(store.load(0, corpus="corpus-a", tower="start")[1], table(9).numpy())
    rest = Encode(table())
    make(store).refresh(rest, step=40, tower="t")
    assert shards_of(rest.calls) == left
    np.testing.assert_array_equal(store.load(1, corpus="corpus-a", tower="t")[1], table().numpy())
    assert sorted(path.name for path in store.root.iterdir()) == ["v000000", "v000001"]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_refuses_vectors_that_are_not_finite_and_keeps_the_old_index(store, bad):
    make(store).refresh(Encode(table()), step=0, tower="start")
    broken = table(1)
    broken[70, 2] = bad
    with pytest.raises(BadInput, match="passages 64 to 79: got vectors that are NaN or infinite"):
        make(store).refresh(Encode(broken), step=40, tower="t")
    assert store.versions() == [0]
    np.testing.assert_array_equal(store.load(0, corpus="corpus-a", tower="start")[1], table().numpy())


def test_refuses_numbers_that_overflow_the_dtype(store):
    with pytest.raises(BadInput, match="infinite as float16.*store float32"):
        make(store, dtype="float16").refresh(Encode(table() * 1e6), step=40, tower="t")


@pytest.mark.parametrize("shape", [(SHARD, DIM + 1), (SHARD - 1, DIM), (SHARD,)])
def test_refuses_vectors_of_a_wrong_shape(store, shape):
    with pytest.raises(BadInput, match=r"passages 0 to 15: got vectors .*, expected \(16, 5\)"):
        make(store).refresh(lambda ids: torch.zeros(shape), step=40, tower="t")
    assert store.versions() == []


@pytest.mark.parametrize("bad", [{"count": 0}, {"dim": 0}, {"shard_size": 0}, {"keep": 0}, {"dtype": "bfloat16"}])
def test_refuses_settings_without_sense(store, bad):
    with pytest.raises(BadInput, match="expected"):
        make(store, **bad)


def test_a_full_disk_keeps_the_old_index_and_the_finished_shards(store, monkeypatch):
    make(store).refresh(Encode(table(9)), step=0, tower="start")
    real = aside.write_synced

    def full_at_the_fourth(path, pieces):
        if path.name.startswith("shard-00003"):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, pieces)

    monkeypatch.setattr(aside, "write_synced", full_at_the_fourth)
    with pytest.raises(BadInput, match="disk full"):
        make(store).refresh(Encode(table()), step=40, tower="t")
    work = make(store).work_folder(step=40, tower="t")
    assert sorted(path.name for path in work.iterdir()) == [f"shard-0000{shard}.npy" for shard in range(3)]
    assert store.load(0, corpus="corpus-a", tower="start")[0]["trained_step"] == 0
    monkeypatch.undo()
    rest = Encode(table())
    make(store).refresh(rest, step=40, tower="t")
    assert shards_of(rest.calls) == [3, 4, 5, 6]


@pytest.mark.parametrize("moment", [2, 6])
def test_two_refreshes_of_one_index_do_not_publish_a_mixture(store, moment):
    """The second one, of newer weights, takes the first one's work away: the first says so, and publishes nothing."""

    def second_starts(shard):
        if shard == moment:
            make(store).refresh(Encode(table(1)), step=80, tower="newer")

    with pytest.raises(BadInput, match="another refresh works on this index"):
        make(store).refresh(Encode(table(0)), step=40, tower="t", on_shard=second_starts)
    assert [store.manifest(version)["tower"] for version in store.versions()] == ["newer"]


def test_ranks_share_the_shards_and_rank_zero_publishes(store):
    encodes = [Encode(table()) for _ in range(3)]
    manifests = [None] * 3

    def work(rank):
        manifests[rank] = make(store).refresh(encodes[rank], step=40, tower="t", rank=rank, world=3)

    ranks = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    ranks[0].start()
    time.sleep(0.3)  # rank 0 has finished its own, and waits
    assert store.versions() == []
    for rank in ranks[1:]:
        rank.start()
    for rank in ranks:
        rank.join(timeout=10)
    assert [shards_of(encode.calls) for encode in encodes] == [[0, 3, 6], [1, 4], [2, 5]]
    assert manifests[0]["version"] == 0 and manifests[1:] == [None, None]
    np.testing.assert_array_equal(store.load(0, corpus="corpus-a", tower="t")[1], table().numpy())


def test_the_work_of_a_dead_rank_is_done_by_rank_zero(store, monkeypatch):
    monkeypatch.setattr(refresher, "POLL_SECONDS", 0.01)
    with pytest.raises(Stop):
        make(store).refresh(Encode(table()), step=40, tower="t", on_shard=stop_at(1), rank=1, world=2)
    encode = Encode(table())
    make(store, patience_seconds=0.1).refresh(encode, step=40, tower="t", rank=0, world=2)
    assert shards_of(encode.calls) == [0, 2, 4, 6, 3, 5]
    np.testing.assert_array_equal(store.load(0, corpus="corpus-a", tower="t")[1], table().numpy())


def test_a_slow_rank_is_waited_for_as_long_as_it_finishes_shards(store, monkeypatch):
    """The clock is made up: rank 1 finishes one of its three shards at every fourth look, patience is five looks."""
    clock, slow, encode = [0.0], Encode(table()), Encode(table())

    def sleep(seconds):
        clock[0] += 1
        if clock[0] % 4 == 0:
            with pytest.raises(Stop):
                make(store).refresh(slow, step=40, tower="t", on_shard=stop_at(clock[0] // 2 - 1), rank=1, world=2)

    monkeypatch.setattr(refresher, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    make(store, patience_seconds=5.0).refresh(encode, step=40, tower="t", rank=0, world=2)
    assert shards_of(encode.calls) == [0, 2, 4, 6] and shards_of(slow.calls) == [1, 3, 5]
    assert clock[0] == 12
