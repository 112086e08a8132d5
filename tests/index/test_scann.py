"""What is special to ScaNN, where it is installed."""

import numpy as np
import pytest
import torch

from realm_train.batch import MISSING
from realm_train.errors import BadInput
from realm_train.index.exact import ExactIndex
from realm_train.index.scann import Scann
from realm_train.index.store import IndexStore

CPU = torch.device("cpu")


def vectors(seed, count):
    return np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)


@pytest.fixture
def scann():
    return pytest.importorskip("scann")


def test_a_published_index_reaches_its_target_keeps_k_full_and_scores_exactly(scann, tmp_path):
    passages, questions = vectors(0, 2000), torch.from_numpy(vectors(1, 100))
    structure, store = Scann(recall_at=10, recall_target=0.9, queries=200), IndexStore(tmp_path)
    facts = {"trained_step": 0, "tower": "t", "corpus": "c", "seconds": 0.0, "dtype": "float32"}
    store.publish([passages], count=2000, dim=16, structure=structure, queries=vectors(2, 200), **facts)
    manifest, index = store.open(0, structure, corpus="c")
    truth = ExactIndex(passages).search(questions, 10)
    found = index.search(questions, 10)
    assert (found.ids[:, :, None] == truth.ids[:, None, :]).any(dim=2).float().mean() >= 0.85
    assert manifest["search"]["queries_from"] == "questions" and manifest["search"]["leaves"] == 45
    barred = index.search(questions, 10, truth.ids)
    assert not (barred.ids[:, :, None] == truth.ids[:, None, :]).any() and (barred.ids != MISSING).all()
    everything = index.search(questions[:2], 2000)
    assert torch.equal(everything.ids, ExactIndex(passages).search(questions[:2], 2000).ids)


def test_refuses_a_corpus_that_is_too_small_for_it(scann, tmp_path):
    with pytest.raises(BadInput, match="ScaNN says: .* take index=exact"):
        Scann().build(vectors(0, 5), tmp_path)
    with pytest.raises(BadInput, match="index.leaves: got 99 for 20 passages"):
        Scann(leaves=99).build(vectors(0, 20), tmp_path)


def test_says_how_to_install_it_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "scann", None)
    with pytest.raises(BadInput, match=r"pip install -e '.\[scann\]'"):
        Scann().build(vectors(0, 100), tmp_path)


def test_refuses_settings_that_cannot_be():
    with pytest.raises(BadInput, match="leaves=0"):
        Scann(leaves=0)
