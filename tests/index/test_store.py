import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from realm_train.errors import BadInput
from realm_train.index import aside
from realm_train.index.store import IndexStore


def vectors(seed=0, count=50, dim=6, dtype="float32"):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(dtype)


def publish(store, array, *, step=0, pieces=3, **changes):
    settings = {"tower": "tower-a", "corpus": "corpus-a", "seconds": 1.5, "trained_step": step, "keep": 3} | changes
    count, dim = array.shape
    return store.publish(np.array_split(array, pieces), count=count, dim=dim, dtype=str(array.dtype), **settings)


@pytest.fixture
def store(tmp_path):
    return IndexStore(tmp_path / "index")


def everything(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_published_version_is_the_file_that_numpy_would_save(store, dtype, pieces):
    array = vectors(dtype=dtype)
    version = publish(store, array, pieces=pieces)
    saved = io.BytesIO()
    np.save(saved, array)
    assert (store.folder(version) / "embeddings.npy").read_bytes() == saved.getvalue()


def test_manifest_and_embeddings_come_back(store):
    array = vectors()
    publish(store, array, step=40)
    manifest, loaded = store.load(0, corpus="corpus-a", tower="tower-a")
    np.testing.assert_array_equal(loaded, array)
    assert isinstance(loaded, np.memmap)
    expected = {"kind": "index", "version": 0, "trained_step": 40, "tower": "tower-a", "corpus": "corpus-a"}
    expected |= {"count": 50, "dim": 6, "dtype": "float32", "metric": "inner_product", "seconds": 1.5}
    assert expected.items() <= manifest.items()
    assert store.latest() == 0 and store.latest_step() == 40


def test_an_empty_store_has_no_version(store):
    assert store.versions() == [] and store.latest() is None and store.latest_step() is None
    with pytest.raises(BadInput, match="no such index version .there are: none."):
        store.load(0, corpus="corpus-a")


def test_writing_to_loaded_embeddings_does_not_reach_the_file(store):
    publish(store, vectors())
    _, loaded = store.load(0, corpus="corpus-a")
    loaded[:] = 0
    np.testing.assert_array_equal(store.load(0, corpus="corpus-a")[1], vectors())


def test_the_newest_are_kept_and_nothing_else_is_touched(store):
    store.root.mkdir()
    for name in ("v1", "notes", "v000001.backup", "v000000"):
        (store.root / name).mkdir()
        (store.root / name / "mine.txt").write_text("precious")
    (store.root / "v000000" / "manifest.json").write_text('{"kind": "something else"}')
    for step in range(5):
        publish(store, vectors(step), step=step, keep=2)
    assert store.versions() == [0, 4, 5]
    for name in ("v1", "notes", "v000001.backup", "v000000"):
        assert (store.root / name / "mine.txt").read_text() == "precious"
    assert not [name for name in everything(store.root) if name.startswith(".")]


def test_a_map_outlives_the_pruning_of_its_version(store):
    publish(store, vectors(), keep=1)
    _, loaded = store.load(0, corpus="corpus-a")
    publish(store, vectors(1), keep=1)
    assert store.versions() == [1]
    np.testing.assert_array_equal(loaded, vectors())


def replace_in_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def flip_byte(folder):
    path = folder / "embeddings.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(folder):
    os.truncate(folder / "embeddings.npy", 500)


DAMAGE = {
    "sha256": flip_byte,
    "cannot be read": truncate,
    "cannot be read .*No such file": lambda folder: (folder / "embeddings.npy").unlink(),
    "got shape .50, 6., expected .51, 6.": lambda folder: replace_in_manifest(folder, count=51),
    "got shape .50, 6., expected .50, 7.": lambda folder: replace_in_manifest(folder, dim=7),
    "got dtype float32, expected float16": lambda folder: replace_in_manifest(folder, dtype="float16"),
    "got metric cosine, expected inner_product": lambda folder: replace_in_manifest(folder, metric="cosine"),
    "not the manifest of index version 0": lambda folder: replace_in_manifest(folder, version=3),
    "not the manifest of index": lambda folder: (folder / "manifest.json").write_text("[]"),
    "manifest.json: cannot be read": lambda folder: (folder / "manifest.json").write_text('{"kind": "ind'),
    "no such index version": lambda folder: shutil.rmtree(folder),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.items(), ids=DAMAGE.keys())
def test_refuses_what_is_damaged(store, message, damage):
    publish(store, vectors())
    damage(store.folder(0))
    with pytest.raises(BadInput, match=message) as refusal:
        store.load(0, corpus="corpus-a", tower="tower-a")
    assert "refresh" in str(refusal.value) and "v000000" in str(refusal.value)


def test_refuses_another_corpus_and_another_tower(store):
    publish(store, vectors())
    with pytest.raises(BadInput, match="got corpus corpus-a, expected corpus-b; use what it was made from"):
        store.load(0, corpus="corpus-b", tower="tower-a")
    with pytest.raises(BadInput, match="got tower tower-a, expected tower-b; use what it was made from"):
        store.load(0, corpus="corpus-a", tower="tower-b")
    store.load(0, corpus="corpus-a", tower=None)


def test_the_hash_is_read_only_when_asked(store):
    publish(store, vectors())
    flip_byte(store.folder(0))
    _, loaded = store.load(0, corpus="corpus-a", verify=False)
    assert not np.array_equal(loaded, vectors())


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([vectors(count=49)], "got 49 embeddings, expected 50"),
        ([vectors(), vectors(count=1)], "got 51 embeddings, expected 50"),
        ([vectors(dim=7)], r"\(50, 7\) float32, expected \[rows, 6\]"),
        ([vectors(dtype="float16")], "float16, expected .* float32"),
    ],
)
def test_pieces_that_do_not_add_up_publish_nothing(store, pieces, message):
    publish(store, vectors())
    before = everything(store.root)
    settings = {
        "count": 50,
        "dim": 6,
        "dtype": "float32",
        "tower": "t",
        "corpus": "c",
        "seconds": 0.0,
        "trained_step": 1,
    }
    with pytest.raises(BadInput, match=message):
        store.publish(pieces, **settings)
    assert everything(store.root) == before


def test_refuses_a_dtype_that_numpy_cannot_store(store):
    with pytest.raises(BadInput, match="dtype=bfloat16"):
        store.publish([], count=1, dim=1, dtype="bfloat16", trained_step=0, tower="", corpus="", seconds=0.0)


def test_discarding_hides_what_lies_beyond_the_step_and_frees_the_number(store):
    for step in (0, 100, 200):
        publish(store, vectors(step), step=step)
    moved = store.discard_after(100)
    assert store.versions() == [0, 1] and store.latest_step() == 100
    assert [path.name[:17] for path in moved] == ["discarded-v000002"]
    np.testing.assert_array_equal(np.load(moved[0] / "embeddings.npy"), vectors(200))
    assert publish(store, vectors(7), step=200) == 2
    assert len(store.discard_after(-1)) == 3 and store.latest() is None


def test_everything_is_on_disk_before_the_name_appears(store, monkeypatch):
    events = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).split("-")[0])
        real_fsync(descriptor)

    def rename(source, target):
        events.append(f"rename to {os.path.basename(target)}")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    publish(store, vectors())
    assert events == ["embeddings.npy", "manifest.json", ".partial", "rename to v000000", "index"]


class FullDisk:
    """A file that takes some bytes, then says that the disk is full."""

    def __init__(self, *args, room):
        self.file, self.room = open(*args), room  # noqa: SIM115 - closed in __exit__

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, piece):
        self.room -= len(piece)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(piece)


@pytest.mark.parametrize("room", [0, 200, 900])
def test_a_full_disk_leaves_the_old_versions_and_no_rubbish(store, monkeypatch, room):
    publish(store, vectors(), step=3)
    before = everything(store.root)
    monkeypatch.setattr(aside, "open", lambda *args: FullDisk(*args, room=room), raising=False)
    with pytest.raises(BadInput, match="disk full .* is untouched"):
        publish(store, vectors(1), step=4)
    assert everything(store.root) == before
    monkeypatch.undo()
    assert store.load(0, corpus="corpus-a")[0]["trained_step"] == 3
    assert publish(store, vectors(1), step=4) == 1


def test_a_really_full_disk_leaves_the_old_versions_and_no_rubbish(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", disk], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("may not mount a small disk here")
    try:
        store = IndexStore(disk / "index")
        publish(store, vectors(count=500), step=3)
        before = everything(store.root)
        with pytest.raises(BadInput, match="disk full"):
            publish(store, vectors(count=50_000), step=4)
        assert everything(store.root) == before
        np.testing.assert_array_equal(store.load(0, corpus="corpus-a")[1], vectors(count=500))
        assert publish(store, vectors(1, count=500), step=5) == 1
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_an_error_that_is_no_full_disk_is_not_dressed_up_as_one(store, monkeypatch):
    def fsync(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError) as failure:
        publish(store, vectors())
    assert failure.value.errno == errno.EIO and store.versions() == []


RACER = """
import sys, numpy as np
from realm_train.index.store import IndexStore
store, name = IndexStore(sys.argv[1]), float(sys.argv[2])
for step in range(12):
    array = np.full((40, 5), name * 100 + step, dtype=np.float32)
    store.publish(np.array_split(array, 4), count=40, dim=5, dtype="float32", trained_step=step, tower=str(name),
                  corpus="c", seconds=0.0, keep=100)
"""


def test_racing_publishers_lose_nothing_and_readers_see_only_whole_versions(store):
    racers = [subprocess.Popen([sys.executable, "-c", RACER, str(store.root), name]) for name in ("1", "2", "3")]
    seen = 0
    while any(racer.poll() is None for racer in racers):
        for version in store.versions()[-2:]:
            manifest, loaded = store.load(version, corpus="c")
            assert np.all(loaded == float(manifest["tower"]) * 100 + manifest["trained_step"])
            seen += 1
    assert [racer.returncode for racer in racers] == [0, 0, 0] and seen > 0
    assert store.versions() == list(range(36))
    made = [store.load(version, corpus="c")[0] for version in range(36)]
    assert len({(manifest["tower"], manifest["trained_step"]) for manifest in made}) == 36
    for tower in ("1.0", "2.0", "3.0"):
        assert [manifest["trained_step"] for manifest in made if manifest["tower"] == tower] == list(range(12))


def test_readers_beside_a_pruning_publisher_see_whole_versions_or_a_clear_refusal(store):
    problems, loads, ended = [], [], threading.Event()

    def read():
        while not ended.is_set():
            try:
                manifest, loaded = store.load(store.latest() or 0, corpus="corpus-a")
                loads.append(np.array_equal(loaded, vectors(manifest["trained_step"])))
            except BadInput as error:
                if "no such index version" not in str(error):
                    problems.append(error)
            except Exception as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(60):
        publish(store, vectors(step), step=step, keep=1)
    ended.set()
    reader.join()
    assert problems == [] and loads and all(loads)


KILLED = """
import os, signal, sys, numpy as np
from realm_train.index.store import IndexStore
def pieces():
    yield np.zeros((10, 5), dtype=np.float32)
    os.kill(os.getpid(), signal.SIGKILL)
IndexStore(sys.argv[1]).publish(pieces(), count=20, dim=5, dtype="float32", trained_step=9, tower="t", corpus="c",
                                seconds=0.0)
"""


def test_a_publisher_killed_half_way_leaves_no_version_and_the_next_one_cleans_up(store):
    publish(store, vectors(), step=1)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(store.root)])
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in store.root.glob(".partial-*/*")] == ["embeddings.npy"]
    assert store.versions() == [0] and store.latest_step() == 1
    assert publish(store, vectors(1), step=2) == 1
    assert not list(store.root.glob(".*"))


def test_the_newest_version_of_a_tower_is_found_whatever_its_step(store):
    towers = ["a", "b", "a", "c"]
    for number, tower in enumerate(towers):
        publish(store, vectors(number), step=9 - number, tower=tower, keep=9)
    publish(store, vectors(5), step=20, tower="a", corpus="corpus-b", keep=9)
    assert [store.of_tower(tower, corpus="corpus-a") for tower in "abcd"] == [2, 1, 3, None]
    assert store.of_tower("a", corpus="corpus-b") == 4 and store.of_tower("b", corpus="corpus-b") is None
    (store.folder(2) / "manifest.json").write_text("{")
    assert store.of_tower("a", corpus="corpus-a") == 0  # what is damaged is passed over
    assert IndexStore(store.root / "nowhere").of_tower("a", corpus="corpus-a") is None
