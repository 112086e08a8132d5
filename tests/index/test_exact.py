"""What is special to exact search: dtypes, memory, autocast, and the narrowing down to blocks."""

import warnings

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from realm_train.errors import BadInput
from realm_train.index import exact
from realm_train.index.exact import BLOCK, ExactIndex, best_columns


@pytest.mark.parametrize("columns", [1, BLOCK, 2 * BLOCK, 2 * BLOCK + 1, 5 * BLOCK - 1, 40 * BLOCK, 70 * BLOCK + 3])
@pytest.mark.parametrize("k", [1, 2, 5, 33])
def test_best_columns_equal_a_stable_sort_of_the_whole_row(columns, k):
    generator = torch.Generator().manual_seed(columns * 100 + k)
    scores = torch.randint(0, 6, (4, columns), generator=generator).float()
    scores[1] = -torch.inf
    scores[2, : columns // 2] = -torch.inf
    scores[3] = torch.arange(columns)
    expected = np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(best_columns(scores, k).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scores_are_fp32_products_of_what_is_stored(dtype):
    generator = torch.Generator().manual_seed(0)
    vectors, queries = torch.randn(700, 24, generator=generator), torch.randn(5, 24, generator=generator)
    stored = vectors.to(dtype).double()
    found = ExactIndex(vectors, dtype=dtype, chunk=64).search(queries, 10)
    true = queries.double() @ stored.T
    torch.testing.assert_close(found.scores.double(), true.gather(1, found.ids), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.scores.double(), true.topk(10).values, rtol=0, atol=1e-5)


def test_autocast_does_not_touch_the_scores():
    generator = torch.Generator().manual_seed(0)
    index = ExactIndex(torch.randn(300, 16, generator=generator))
    queries = torch.randn(3, 16, generator=generator)
    plain = index.search(queries, 300)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = index.search(queries, 300)
    assert torch.equal(plain.scores, cast.scores) and torch.equal(plain.ids, cast.ids)


def test_chunks_change_nothing_for_exact_numbers():
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randint(-9, 10, (1000, 8), generator=generator).float()
    queries = torch.randint(-9, 10, (6, 8), generator=generator).float()
    whole = ExactIndex(vectors).search(queries, 50)
    for chunk in (1, 31, 32, 33, 999, 1000, 1001):
        part = ExactIndex(vectors, chunk=chunk).search(queries, 50)
        assert torch.equal(whole.ids, part.ids) and torch.equal(whole.scores, part.scores)


def test_a_read_only_map_is_used_in_place_without_a_warning(tmp_path):
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = ExactIndex(mapped)
    assert index.vectors.data_ptr() == mapped.ctypes.data
    assert index.search(torch.ones(1, 3), 1).ids.tolist() == [[3]]


def test_another_dtype_is_a_copy_of_that_size():
    index = ExactIndex(torch.ones(10, 4), dtype=torch.float16)
    assert index.vectors.dtype == torch.float16 and index.vectors.untyped_storage().nbytes() == 10 * 4 * 2


def test_refuses_vectors_that_are_not_finite_and_says_which(monkeypatch):
    monkeypatch.setattr(exact, "LOADED", 5)
    vectors = torch.ones(12, 2)
    vectors[7, 1] = torch.nan
    with pytest.raises(BadInput, match="passages 5 to 9"):
        ExactIndex(vectors)


def test_refuses_numbers_too_large_for_the_dtype():
    with pytest.raises(BadInput, match="float16.*store them as float32"):
        ExactIndex(torch.full((3, 2), 1e5), dtype=torch.float16)


def test_refuses_wrong_shapes():
    with pytest.raises(BadInput, match="expected \\[passages, width\\]"):
        ExactIndex(np.ones(3, dtype=np.float32))
    with pytest.raises(BadInput, match="chunk=0"):
        ExactIndex(torch.eye(2), chunk=0)
    with pytest.raises((BadInput, TypeCheckError)):
        ExactIndex(torch.eye(2)).search(torch.ones(2, 2), 1, torch.tensor([[0]]))


def test_an_empty_corpus_has_nothing_to_offer():
    assert ExactIndex(torch.empty(0, 3)).search(torch.ones(2, 3), 2).ids.tolist() == [[-1, -1], [-1, -1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_written_vectors_are_found_as_if_the_index_had_been_built_of_them(dtype):
    generator = torch.Generator().manual_seed(5)
    vectors, newer = torch.randn(90, 8, generator=generator), torch.randn(5, 8, generator=generator)
    queries = torch.randn(4, 8, generator=generator)
    index = ExactIndex(vectors.clone(), dtype=dtype, chunk=20)
    index.write(torch.tensor([3, 89, 40, 3, 0]), newer)
    for row, passage in enumerate([3, 89, 40, 3, 0]):
        vectors[passage] = newer[row]  # of passage 3 the last counts
    expected = ExactIndex(vectors, dtype=dtype, chunk=20).search(queries, 90)
    found = index.search(queries, 90)
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("mode", ["r", "c"])
def test_writing_into_a_map_never_reaches_its_file(mode, tmp_path):
    path = tmp_path / "vectors.npy"
    np.save(path, np.eye(4, dtype=np.float32))
    before = path.read_bytes()
    index = ExactIndex(np.load(path, mmap_mode=mode))
    index.write(torch.tensor([2]), torch.full((1, 4), 7.0))
    assert index.vectors[2].tolist() == [7.0] * 4 and index.vectors[1].tolist() == [0.0, 1.0, 0.0, 0.0]
    del index
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("ids", "value", "message"),
    [([0, 4], 1.0, "not among its 4"), ([-1, 0], 1.0, "not among its 4"), ([0, 1], torch.nan, "float16")]
    + [([0, 1], 1e5, "store float32")],
)
def test_a_write_that_is_refused_changes_nothing(ids, value, message):
    index = ExactIndex(torch.eye(4), dtype=torch.float16)
    newer = torch.ones(2, 4)
    newer[1, 3] = value
    with pytest.raises(BadInput, match=message):
        index.write(torch.tensor(ids), newer)
    assert torch.equal(index.vectors, torch.eye(4, dtype=torch.float16))


def test_nothing_to_write_is_no_error():
    index = ExactIndex(torch.eye(3))
    index.write(torch.empty(0, dtype=torch.long), torch.empty(0, 3))
    assert torch.equal(index.vectors, torch.eye(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_the_cpu_for_exact_numbers():
    generator = torch.Generator().manual_seed(4)
    vectors = torch.randint(-3, 4, (5000, 16), generator=generator).float()
    queries = torch.randint(-3, 4, (9, 16), generator=generator).float()
    exclude = torch.randint(0, 5000, (9, 4), generator=generator)
    host = ExactIndex(vectors).search(queries, 20, exclude)
    device = ExactIndex(vectors, device="cuda", dtype=torch.float16, chunk=999).search(queries, 20, exclude)
    assert torch.equal(host.ids, device.ids) and torch.equal(host.scores, device.scores)
