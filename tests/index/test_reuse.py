"""Rows that are reused are those of the old version to the bit; no row of another tower ever is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realm_train.errors import BadInput
from realm_train.index import reuse
from realm_train.index.refresher import Refresher
from realm_train.index.reuse import find_reuse, known_keys, matched, remember_keys
from realm_train.index.store import IndexStore

DIM, SHARD = 4, 8


def vectors_of(keys, tower="t"):
    """A tower: the vector of a passage depends on its content alone."""
    return torch.stack(
        [torch.randn(DIM, generator=torch.Generator().manual_seed(int(key) + len(tower))) for key in keys]
    )


class Corpus:
    """Passages by their content keys; remembers what was encoded."""

    def __init__(self, name, keys, tower="t"):
        self.name, self.keys, self.tower, self.encoded = name, np.array(keys, dtype=np.int64), tower, []

    def __call__(self, ids):
        self.encoded += ids.tolist()
        return vectors_of(self.keys[ids], self.tower)

    def refresh(self, store, *, step=0, dtype="float32", **settings):
        given = {"shard_size": SHARD, "keys": self.keys, "keep": 9} | settings
        made = Refresher(store, corpus_hash=self.name, count=len(self.keys), dim=DIM, dtype=dtype, **given)
        return made.refresh(self, step=step, tower=self.tower)

    def published(self, store, version):
        return store.load(version, corpus=self.name, tower=self.tower)[1]


@pytest.fixture
def store(tmp_path):
    return IndexStore(tmp_path / "index")


def changed(keys, seed):
    """Some passages gone, some new, in another order."""
    rng = np.random.default_rng(seed)
    kept = rng.permutation(keys)[: rng.integers(0, len(keys) + 1)]
    return rng.permutation(np.concatenate([kept, 1000 + np.arange(rng.integers(1, 30))]))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("shard_size", [1, SHARD, 100])
def test_only_new_passages_are_encoded_and_the_version_is_that_of_a_full_refresh(store, tmp_path, seed, shard_size):
    old = Corpus("old", np.random.default_rng(seed).permutation(50))
    new = Corpus("new", changed(old.keys, seed))
    old.refresh(store)
    manifest = new.refresh(store, shard_size=shard_size)
    assert new.encoded == [row for row, key in enumerate(new.keys) if key not in old.keys]
    counts = {"reused": len(new.keys) - len(new.encoded), "encoded": len(new.encoded)}
    assert manifest.items() >= counts.items()
    assert manifest["reused_from"] == (str(store.folder(0)) if counts["reused"] else None)
    np.testing.assert_array_equal(new.published(store, 1), vectors_of(new.keys).numpy())


def test_copied_rows_are_the_old_versions_bits_also_when_encoding_gives_others(store):
    old, new = Corpus("old", range(30)), Corpus("new", [40, *range(5, 25), 41])
    old.refresh(store, dtype="float16")
    before = np.array(old.published(store, 0))
    new.refresh(store, dtype="float16", shard_size=3)
    after = new.published(store, 1)
    assert after[1:-1].tobytes() == before[5:25].tobytes() and after.dtype == np.float16
    assert after[[0, -1]].tobytes() == vectors_of([40, 41]).half().numpy().tobytes()


def test_where_nothing_changed_nothing_is_encoded(store):
    corpus = Corpus("one", range(20))
    corpus.refresh(store)
    corpus.encoded.clear()
    manifest = corpus.refresh(store, step=7)
    assert not corpus.encoded and (manifest["reused"], manifest["encoded"], manifest["trained_step"]) == (20, 0, 7)
    assert corpus.published(store, 1).tobytes() == corpus.published(store, 0).tobytes()
    assert sorted(path.name for path in store.root.iterdir()) == ["keys-one.npy", "v000000", "v000001"]


@pytest.mark.parametrize(
    ("other", "settings"),
    [({"tower": "another tower"}, {}), ({}, {"dtype": "float16"}), ({}, {"keys": None})],
    ids=["tower", "dtype", "not asked for"],
)
def test_nothing_is_reused_of_another_tower_or_dtype_or_unasked(store, other, settings):
    Corpus("one", range(20), **other).refresh(store)
    corpus = Corpus("one", range(20))
    manifest = corpus.refresh(store, **settings)
    assert corpus.encoded == list(range(20)) and manifest["reused"] == 0
    expected = vectors_of(corpus.keys).to(getattr(torch, settings.get("dtype", "float32"))).numpy()
    np.testing.assert_array_equal(corpus.published(store, 1), expected)


def test_the_version_that_holds_most_is_taken_from_any_store(store, tmp_path):
    other = IndexStore(tmp_path / "index-other")
    Corpus("few", range(5)).refresh(store)
    Corpus("most", range(18)).refresh(other)
    Corpus("some", range(9)).refresh(store)
    Corpus("most", range(18), tower="another tower").refresh(other)
    new = Corpus("new", range(20))
    manifest = new.refresh(store, reuse_from=[other])
    assert new.encoded == [18, 19] and manifest["reused_from"] == str(other.folder(0))


def test_a_damaged_version_is_passed_over(store):
    old, new = Corpus("old", range(20)), Corpus("new", range(1, 21))
    for step in range(2):
        old.refresh(store, step=step)
    path = store.folder(1) / "embeddings.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert new.refresh(store)["reused_from"] == str(store.folder(0))
    np.testing.assert_array_equal(new.published(store, 2), vectors_of(new.keys).numpy())


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_without_the_old_corpus_keys_all_is_encoded(store, damage):
    Corpus("old", range(20)).refresh(store)
    damage(store.root / "keys-old.npy")
    new = Corpus("new", range(20))
    assert new.refresh(store)["reused"] == 0 and new.encoded == list(range(20))


def test_an_interrupted_refresh_goes_on_unless_other_rows_are_to_be_encoded(store):
    class Stop(Exception):
        pass

    def stop(shard):
        if shard == 1:
            raise Stop

    old, new = Corpus("old", range(20)), Corpus("new", range(10, 60))
    old.refresh(store)
    given = {"corpus_hash": "new", "count": 50, "dim": DIM, "shard_size": SHARD, "keys": new.keys}
    with pytest.raises(Stop):
        Refresher(store, **given).refresh(new, step=3, tower="t", on_shard=stop)
    assert new.encoded == list(range(10, 26))
    new.encoded.clear()
    Refresher(store, **given).refresh(new, step=3, tower="t")
    assert new.encoded == list(range(26, 50))
    np.testing.assert_array_equal(new.published(store, 1), vectors_of(new.keys).numpy())
    other = Corpus("other", range(10, 60))
    with pytest.raises(Stop):
        Refresher(store, **given | {"corpus_hash": "other", "keys": None}).refresh(
            other, step=3, tower="t", on_shard=stop
        )
    (store.root / "keys-new.npy").unlink()
    other.encoded.clear()
    Refresher(store, **given | {"corpus_hash": "other"}).refresh(
        other, step=3, tower="t"
    )  # from v0 alone: other shards
    assert other.encoded == list(range(10, 50))
    np.testing.assert_array_equal(other.published(store, 2), vectors_of(other.keys).numpy())


def test_places_are_found_as_by_hand(monkeypatch):
    monkeypatch.setattr(reuse, "CHUNK", 7)
    rng = np.random.default_rng(0)
    for size in (0, 1, 20, 100):
        known = rng.permutation(1 << 20)[:size]
        keys = rng.permutation(np.concatenate([known[: size // 2], (1 << 20) + np.arange(13)]))
        place = {key: row for row, key in enumerate(known.tolist())}
        assert matched(keys, known).tolist() == [place.get(key, -1) for key in keys.tolist()]


def test_keys_are_kept_once_and_whole(tmp_path):
    keys = np.arange(5)
    remember_keys(tmp_path / "index", "a" * 64, keys)
    remember_keys(tmp_path / "index", "a" * 64, keys[:2])
    assert known_keys(tmp_path / "index", "a" * 64).tolist() == keys.tolist()
    assert [path.name for path in (tmp_path / "index").iterdir()] == [f"keys-{'a' * 16}.npy"]
    assert known_keys(tmp_path / "index", "b" * 64) is None


def test_a_version_that_goes_meanwhile_is_passed_over(store, monkeypatch):
    old = Corpus("old", range(20))
    for step in range(2):
        old.refresh(store, step=step)
    load = IndexStore.load

    def pruned(self, version, **expected):
        if version == 1:
            raise BadInput("no such index version")
        return load(self, version, **expected)

    monkeypatch.setattr(IndexStore, "load", pruned)
    made_with = {"tower": "t", "dtype": "float32", "dim": DIM}
    assert find_reuse([store], **made_with, corpus="old", keys=old.keys).version == store.folder(0)
