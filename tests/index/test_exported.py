"""A faiss file for others: exact where the run's search is no faiss index, else as wide as it was calibrated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realm_train.index.exact import ExactIndex
from realm_train.index.faiss import Faiss, write_exported

faiss = pytest.importorskip("faiss")


def vectors(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 16)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_exact_search_is_exported_as_exact_search(tmp_path, dtype):
    embeddings, queries = vectors(300, seed=0).astype(dtype), vectors(5, seed=1)
    write_exported(embeddings, tmp_path, {"kind": "exact"}, tmp_path / "exported.faiss")
    scores, ids = faiss.read_index(str(tmp_path / "exported.faiss")).search(queries, 7)
    ours = ExactIndex(embeddings.astype(np.float32)).search(torch.from_numpy(queries), 7)
    assert ids.tolist() == ours.ids.tolist()
    np.testing.assert_allclose(scores, ours.scores, rtol=1e-5)


@pytest.mark.parametrize("factory, width_of", [("IVF16,Flat", "nprobe"), ("HNSW8", "efSearch")])
def test_an_index_of_faiss_keeps_the_width_that_it_was_calibrated_to(tmp_path, factory, width_of):
    embeddings, queries = vectors(2000, seed=0), vectors(20, seed=1)
    structure = Faiss(factory=factory, recall_target=0.99, recall_at=5)
    search = structure.build(embeddings, tmp_path, queries)
    write_exported(embeddings, tmp_path, search, tmp_path / "exported.faiss")
    owner = faiss.read_index(str(tmp_path / "exported.faiss"))
    exported = faiss.downcast_index(owner)  # lives as long as its owner
    width = getattr(exported if width_of == "nprobe" else exported.hnsw, width_of)
    assert width == search["effort"]["width"] > 1
    first = structure.load(embeddings, tmp_path, search, torch.device("cpu")).search(torch.from_numpy(queries), 1)
    assert (exported.search(queries, 1)[1] == first.ids.numpy()).mean() >= 0.9
