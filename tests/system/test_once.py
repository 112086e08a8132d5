"""One refresh by hand: a corpus that has changed costs what has changed, and every vector is the newest tower's."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from realm_train import once
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.index.store import IndexStore
from realm_train.once import refresh_once, summary

pytestmark = pytest.mark.filterwarnings("ignore:cold start")


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The passages that went through the tower, in order."""
    ids, make = [], once.passage_encoder

    def remembering(*args, **settings):
        encode = make(*args, **settings)

        def remembered(passages):
            ids.extend(passages.tolist())
            return encode(passages)

        return remembered

    monkeypatch.setattr(once, "passage_encoder", remembering)
    return ids


@pytest.fixture(scope="module")
def trained(overrides, tmp_path_factory):
    """A finished run with an index of its final weights; not to be written to."""
    from realm_train.command import compose
    from realm_train.train import main

    run = tmp_path_factory.mktemp("trained") / "run"
    main(compose("train", f"run={run}", *overrides, "stages=[pretrain]", "pretrain.steps=1", "refresh.shard_size=16"))
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def changed(planted_documents, make_corpus, tmp_path):
    """The corpus of the run with three documents edited, two gone, one new, and the rest in another order."""
    documents = [dict(one) for one in planted_documents]
    for one in documents[2:5]:
        one["text"] += " That was long ago."
    new = {"id": "new", "title": "New", "text": "A new document about something else altogether. It is short."}
    return make_corpus([*documents[10:], new, *documents[2:10]], tmp_path)


def matrix(folder, corpus):
    store = IndexStore(folder.parent)
    return np.array(store.load(int(folder.name[1:]), corpus=corpus.hash)[1])


def spelt(corpus, passage):
    return (corpus.title(passage).tolist(), corpus.body(passage).tolist())


def test_of_the_same_corpus_nothing_is_encoded_and_nothing_pruned(run, encoded):
    store = IndexStore(run / "index")
    before, corpus = store.versions(), Corpus(store_corpus(run))
    for extra in range(1, 5):
        manifest, folder = refresh_once(run=run)
        assert folder == store.folder(before[-1] + extra) and store.versions()[: len(before)] == before
        assert (manifest["reused"], manifest["encoded"]) == (len(corpus), 0) and not encoded
    old = store.folder(before[-1])
    assert manifest["tower"] == json.loads((old / "manifest.json").read_text())["tower"]
    assert manifest["trained_step"] == 1
    assert (folder / "embeddings.npy").read_bytes() == (old / "embeddings.npy").read_bytes()


def store_corpus(run):
    from omegaconf import OmegaConf

    return OmegaConf.load(run / "config.yaml").corpus


def test_of_a_changed_corpus_only_what_changed_is_encoded(run, changed, encoded, tmp_path):
    own = Corpus(store_corpus(run))
    shutil.move(run / "index" / f"keys-{own.hash[:16]}.npy", tmp_path) if any((run / "index").glob("keys-*")) else None
    manifest, folder = refresh_once(run=run, corpus=changed.folder)
    assert folder == run / "index-corpus" / "v000000"
    old = {json.dumps(spelt(own, row)): row for row in range(len(own))}
    kept = {row: old[said] for row in range(len(changed)) if (said := json.dumps(spelt(changed, row))) in old}
    assert encoded == [row for row in range(len(changed)) if row not in kept] and 4 <= len(encoded) < len(kept)
    source = IndexStore(run / "index").folder(IndexStore(run / "index").latest())
    assert (manifest["reused"], manifest["encoded"]) == (len(kept), len(encoded))
    assert manifest["reused_from"] == str(source) and f"{len(encoded)} encoded" in summary(manifest, folder)
    made, before = matrix(folder, changed), matrix(source, own)
    assert made[list(kept)].tobytes() == before[list(kept.values())].tobytes()
    shutil.move(run / "index", tmp_path / "index")
    shutil.move(run / "index-corpus", tmp_path / "index-corpus")
    manifest, folder = refresh_once(run=run, corpus=changed.folder)  # from nothing
    assert manifest["reused"] == 0 and manifest["reused_from"] is None
    np.testing.assert_allclose(made.astype(np.float32), matrix(folder, changed).astype(np.float32), atol=2e-3)


def test_what_the_corpus_was_updated_to_again_costs_only_the_difference(run, changed, encoded):
    refresh_once(run=run, corpus=changed.folder)
    encoded.clear()
    manifest, folder = refresh_once(run=run, corpus=changed.folder)
    assert not encoded and folder.name == "v000001" and manifest["reused_from"].endswith("index-corpus/v000000")


def test_other_weights_are_never_reused(run, changed, encoded):
    for folder in (run / "index").glob("v*"):
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tower": "another"}))
    manifest, _ = refresh_once(run=run, corpus=changed.folder)
    assert encoded == list(range(len(changed))) and manifest["reused"] == 0


def test_mistakes_are_named(run, make_corpus, tmp_path):
    with pytest.raises(BadInput, match="nowhere/config.yaml: not found"):
        refresh_once(run=tmp_path / "nowhere")
    (tmp_path / "long").mkdir()
    text = {"id": "1", "title": "T", "text": "A text."}
    long = make_corpus([text], tmp_path / "long", max_length=128)
    with pytest.raises(BadInput, match="passage_length: got 96.* raise passage_length"):
        refresh_once(run=run, corpus=long.folder)
    (tmp_path / "other").mkdir()
    other = make_corpus([text], tmp_path / "other").folder / "manifest.json"
    manifest = json.loads(other.read_text())
    manifest["tokenizer"] |= {"sha256": "0", "name": "another"}
    other.write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="pieces of the tokenizer another, expected those of .*prepare the corpus with"):
        refresh_once(run=run, corpus=other.parent)
    shutil.move(run / "checkpoints", tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="no checkpoint with a passage tower"):
        refresh_once(run=run)
