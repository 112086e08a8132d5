"""Search structures in the store: built and hashed before the version is seen, opened whole or refused."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from realm_train.command import CONF, compose
from realm_train.errors import BadInput
from realm_train.index import aside
from realm_train.index.exact import Exact, ExactIndex
from realm_train.index.store import IndexStore
from realm_train.ports import SearchStructure

KINDS = sorted(path.stem for path in (CONF / "index").glob("*.yaml"))


@pytest.mark.parametrize("words", [[f"index={kind}"] for kind in KINDS]
                         + [["index=sharded", "index@index.of=faiss", "index.shards=8"]], ids=str)  # fmt: skip
def test_every_configuration_is_a_structure(words):
    cfg = compose("train", "corpus=data/any", *words)
    assert isinstance(instantiate(cfg.index, _convert_="all"), SearchStructure)


class Sidecar:
    """A structure that writes two files, remembers what it was given, and searches exactly."""

    kind = "sidecar"

    def __init__(self):
        self.seen = {}

    def build(self, embeddings, folder, queries=None):
        self.seen = {"embeddings": embeddings, "folder": folder, "queries": queries}
        (folder / "deep").mkdir()
        (folder / "a.bin").write_bytes(b"first")
        (folder / "deep" / "b.bin").write_bytes(b"second")
        return {"kind": self.kind, "recall": {"20": 0.97}}

    def load(self, embeddings, folder, search, device):
        for name in search["files"]:
            (folder / name).read_bytes()
        return ExactIndex(embeddings, device=device)


class Refusing(Sidecar):
    def build(self, embeddings, folder, queries=None):
        super().build(embeddings, folder, queries)
        raise BadInput("recall is below the floor")


def vectors(seed=0):
    return np.random.default_rng(seed).standard_normal((50, 6)).astype(np.float32)


def publish(store, *, step=0, **changes):
    settings = {"tower": "t", "corpus": "c", "seconds": 1.0, "trained_step": step, "dtype": "float32"} | changes
    return store.publish([vectors(step)], count=50, dim=6, **settings)


def everything(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture
def store(tmp_path):
    return IndexStore(tmp_path / "index")


def test_a_version_is_exact_unless_a_structure_says_otherwise_and_its_map_is_used_in_place(store):
    publish(store)
    manifest, index = store.open(0, Exact(), corpus="c", tower="t")
    assert manifest["search"] == {"kind": "exact", "seconds": manifest["search"]["seconds"], "files": {}}
    assert index.recall == 1.0 and not index.collective and index.vectors.dtype == torch.float32
    np.testing.assert_array_equal(index.vectors.numpy(), vectors())
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "v000000/embeddings.npy" in line]
    address = index.vectors.data_ptr()
    assert any(int(a, 16) <= address < int(b, 16) for a, b in (line.split()[0].split("-") for line in mapped))


@pytest.mark.parametrize(("dtype", "held"), [(None, "float16"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_exact_search_holds_the_vectors_as_told(store, dtype, held):
    store.publish([vectors().astype("float16")], count=50, dim=6, dtype="float16", trained_step=0, tower="t",
                  corpus="c", seconds=0.0)  # fmt: skip
    assert store.open(0, Exact(dtype=dtype), corpus="c")[1].vectors.dtype == getattr(torch, held)


@pytest.mark.parametrize(("changes", "message"), [({"dtype": "float8"}, "index.dtype"), ({"chunk": 0}, "index.chunk")])
def test_exact_search_refuses_what_it_cannot_hold(changes, message):
    with pytest.raises(BadInput, match=message):
        Exact(**changes)


def test_a_structure_is_built_from_the_written_map_with_the_questions_before_anyone_sees_it(store):
    structure, questions = Sidecar(), np.ones((2, 6), np.float32)
    publish(store, structure=structure, queries=questions)
    assert structure.seen["queries"] is questions and isinstance(structure.seen["embeddings"], np.memmap)
    assert structure.seen["folder"].name.startswith(".partial-")
    manifest, index = store.open(0, structure, corpus="c")
    assert manifest["search"]["kind"] == "sidecar" and manifest["search"]["recall"] == {"20": 0.97}
    assert sorted(manifest["search"]["files"]) == ["a.bin", "deep/b.bin"] and index.count == 50


def test_a_structure_that_refuses_leaves_the_old_version_and_no_rubbish(store):
    publish(store, structure=Sidecar())
    before = everything(store.root)
    with pytest.raises(BadInput, match="below the floor"):
        publish(store, step=1, structure=Refusing())
    assert everything(store.root) == before and store.versions() == [0]


def test_its_files_are_on_disk_before_the_version_has_its_name(store, monkeypatch):
    synced, sync = [], aside.sync
    monkeypatch.setattr(aside, "sync", lambda path: (synced.append(path.name), sync(path)))
    monkeypatch.setattr(aside, "publish", lambda folder, target: synced.append("published") or folder.rename(target))
    publish(store, structure=Sidecar())
    assert {"a.bin", "b.bin", "deep"} <= set(synced[: synced.index("published")])


def damage_flip(folder):
    (folder / "deep" / "b.bin").write_bytes(b"secone")


def damage_gone(folder):
    (folder / "a.bin").unlink()


@pytest.mark.parametrize(("damage", "message"), [(damage_flip, "b.bin: got sha256"), (damage_gone, "a.bin: cannot be")])
def test_damaged_files_of_a_structure_are_refused_and_named(store, damage, message):
    structure = Sidecar()
    publish(store, structure=structure)
    damage(store.folder(0))
    with pytest.raises(BadInput, match=f"{message}.*move .*v000000 away"):
        store.open(0, structure, corpus="c")
    with pytest.raises(BadInput, match=message):
        store.load(0, corpus="c")


def test_any_version_opens_for_exact_search_and_no_other_structure_than_its_own(store):
    publish(store, structure=Sidecar())
    publish(store, step=1)
    assert torch.equal(store.open(0, Exact(), corpus="c")[1].vectors, torch.from_numpy(vectors(0)))
    with pytest.raises(BadInput, match="published for index=exact, got index=sidecar; take index=exact"):
        store.open(1, Sidecar(), corpus="c")


def test_a_version_from_before_there_were_structures_is_exact(store):
    publish(store)
    path = store.folder(0) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["search"]
    path.write_text(json.dumps(manifest))
    assert store.open(0, Exact(), corpus="c")[1].count == 50
    with pytest.raises(BadInput, match="published for index=exact"):
        store.open(0, Sidecar(), corpus="c")


def test_a_version_pruned_while_it_is_opened_is_gone_and_not_broken(store):
    class Pruned(Sidecar):
        def load(self, embeddings, folder, search, device):
            aside.remove(folder)
            return super().load(embeddings, folder, search, device)

    publish(store, structure=Pruned())
    with pytest.raises(BadInput, match="no such index version .there are: none."):
        store.open(0, Pruned(), corpus="c")


def test_threads_open_whole_versions_beside_a_publisher(store):
    problems, opened = [], []
    publish(store, keep=100)

    def open_latest():
        try:
            for _ in range(15):
                manifest, index = store.open(store.latest(), Exact(), corpus="c")
                opened.append(np.array_equal(index.vectors.numpy(), vectors(manifest["trained_step"])))
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=open_latest) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(1, 20):
        publish(store, step=step, keep=100)
    for thread in threads:
        thread.join()
    assert problems == [] and len(opened) == 45 and all(opened)
