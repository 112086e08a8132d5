import json
import shutil

import numpy as np
import pytest
import torch

from realm_train.batch import MISSING
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput


def naive_sequence(corpus, passage, max_length):
    """`[CLS] title [SEP] body [SEP]`, written as plainly as it can be."""
    title = [] if passage == MISSING else corpus.title(passage).tolist()[: max_length - 3]
    body = [] if passage == MISSING else corpus.body(passage).tolist()[: max_length - 3 - len(title)]
    return [corpus.cls_id, *title, corpus.sep_id, *body, corpus.sep_id], len(title) + 2


@pytest.fixture
def some(corpus):
    """Passages in no order, one of them twice, and the null passage."""
    numbers = np.random.default_rng(0).integers(0, len(corpus), size=30)
    return np.concatenate([numbers, [MISSING, numbers[0], 0, len(corpus) - 1]])


@pytest.mark.parametrize("max_length", [4, 5, 17, 60, 96, 200])
def test_sequences_are_the_naive_ones(corpus, some, max_length):
    made = corpus.sequences(some, max_length)
    for row, passage in enumerate(some.tolist()):
        expected, second = naive_sequence(corpus, passage, max_length)
        length = len(expected)
        assert made.lengths[row] == length <= max_length and made.second[row] == second
        assert made.ids[row, :length].tolist() == expected
        assert (made.ids[row, length:] == corpus.pad_id).all()
    assert made.ids.shape[1] == made.lengths.max()


def test_the_null_passage_is_empty(corpus):
    null = corpus.sequences(np.array([MISSING]), 96)
    assert null.ids.tolist() == [[corpus.cls_id, corpus.sep_id, corpus.sep_id]] and null.second.tolist() == [2]


@pytest.mark.parametrize("max_length", [1, 20, 500])
def test_bodies_are_cut_and_padded(corpus, some, max_length):
    bodies, lengths = corpus.bodies(some, max_length)
    for row, passage in enumerate(some.tolist()):
        expected = [] if passage == MISSING else corpus.body(passage).tolist()[:max_length]
        assert bodies[row, : lengths[row]].tolist() == expected and (bodies[row, lengths[row] :] == corpus.pad_id).all()
    assert bodies.dtype == lengths.dtype == torch.int64


def test_no_passage_at_all_can_be_asked_for(corpus):
    bodies, lengths = corpus.bodies(np.empty(0, dtype=np.int64), 10)
    assert bodies.shape == (0, 0) and lengths.shape == (0,)
    assert corpus.bodies(np.array([MISSING]), 10)[0].shape == (1, 0)


def test_title_and_body_are_the_passage(corpus):
    pieces = np.concatenate([np.concatenate([corpus.title(i), corpus.body(i)]) for i in range(len(corpus))])
    np.testing.assert_array_equal(pieces, corpus.tokens)
    counts = corpus.sentence_counts()
    assert counts.sum() == corpus.manifest["sentences"] and counts.min() >= 1
    assert [len(corpus.sentences(i)) for i in range(len(corpus))] == counts.tolist()


def test_passages_of_many_arrow_shards_keep_their_numbers(
    planted_documents, make_corpus, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr("data_prep.corpus_writer.SHARD_ROWS", 4)
    monkeypatch.setattr("data_prep.passages.BATCH_DOCUMENTS", 3)
    sharded = make_corpus(planted_documents, tmp_path)
    assert len(list((tmp_path / "corpus" / "passages").iterdir())) > 5
    assert [sharded.passage(i) for i in range(len(corpus))] == [corpus.passage(i) for i in range(len(corpus))]


@pytest.fixture
def copy(corpus_folder, tmp_path):
    """A copy of the corpus folder that a test may spoil."""
    return shutil.copytree(corpus_folder, tmp_path / "copy")


def spoil_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_a_folder_without_a_corpus_is_named(tmp_path, copy):
    with pytest.raises(BadInput, match="manifest.json: not found; make it with python -m data_prep.passages"):
        Corpus(tmp_path / "nowhere")
    spoil_manifest(copy, kind="spans")
    with pytest.raises(BadInput, match="got a manifest of kind 'spans', expected 'corpus'"):
        Corpus(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read"):
        Corpus(copy)


def test_broken_arrays_are_named(copy):
    np.save(copy / "documents.npy", np.zeros(3))
    with pytest.raises(BadInput, match=r"documents.npy: got 3 rows, expected"):
        Corpus(copy)
    (copy / "documents.npy").write_bytes(b"")
    with pytest.raises(BadInput, match=r"documents.npy: cannot be read"):
        Corpus(copy)


def test_spans_are_read_for_this_corpus_only(copy):
    corpus = Corpus(copy)
    with pytest.raises(BadInput, match="make it with python -m data_prep.spans"):
        corpus.spans(0)
    (copy / "spans").mkdir()
    np.save(copy / "spans" / "spans.npy", np.array([[0, 0, 3, 0, 1, 2], [1, 4, 9, 5, 7, 0]], dtype=np.int32))
    np.save(copy / "spans" / "span_offsets.npy", np.array([0, 0, 2] + [2] * (len(corpus) - 2)))
    (copy / "spans" / "manifest.json").write_text(json.dumps({"kind": "spans", "corpus": corpus.hash}))
    spanned = Corpus(copy)
    assert spanned.spans(0).shape == (0, 6) and spanned.spans(1)[1].tolist() == [1, 4, 9, 5, 7, 0]
    assert spanned.span_counts().tolist() == [0, 2] + [0] * (len(corpus) - 2)
    (copy / "spans" / "manifest.json").write_text(json.dumps({"kind": "spans", "corpus": "another"}))
    with pytest.raises(BadInput, match="made for corpus another, but this one is"):
        Corpus(copy).spans(0)


def test_a_missing_table_is_named(copy):
    shutil.rmtree(copy / "passages")
    with pytest.raises(BadInput, match="no Arrow table"):
        Corpus(copy).passage(0)
