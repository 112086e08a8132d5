"""What any index must do; a new kind of index joins by a line in EXACT or in APPROXIMATE.

Approximate kinds that look everywhere when they are told to find what exact search finds, scores and ties to the bit;
the others need only be full, honest about what they score, and strict about what is excluded.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from realm_train.batch import MISSING
from realm_train.errors import BadInput
from realm_train.index.exact import Exact, ExactIndex
from realm_train.index.faiss import Faiss
from realm_train.index.sharded import Sharded
from realm_train.ports import Index, ReadableIndex, SearchStructure

MOST = {"width": 2**30, "fetch": 64}


def built(structure, vectors, effort=None):
    """The index of a version, as it is built and loaded, with another effort than the calibrated one."""
    with tempfile.TemporaryDirectory() as folder:
        search = structure.build(vectors.numpy(), Path(folder))
        for shard in search.get("shards", [search]):
            shard.update({"effort": effort} if effort else {})
        return structure.load(vectors.numpy(), Path(folder), search, torch.device("cpu"))


def faiss(factory):
    """Built without asking for any recall: what it finds with another effort is the test's affair."""
    return Faiss(factory=factory, recall_target=0.0, recall_floor=0.0, queries=2)


EXACT = {
    "exact": ExactIndex,
    "exact, small chunks": lambda vectors: ExactIndex(vectors, chunk=7),
    "exact, one passage a chunk": lambda vectors: ExactIndex(vectors, chunk=1),
    "exact, fp16": lambda vectors: ExactIndex(vectors, dtype=torch.float16),
    "exact, bf16 in chunks": lambda vectors: ExactIndex(vectors, dtype=torch.bfloat16, chunk=33),
    "exact, from an array": lambda vectors: ExactIndex(vectors.numpy(), chunk=50),
    "exact, of a version": lambda vectors: built(Exact(dtype="bfloat16"), vectors),
    "exact, in five shards": lambda vectors: built(Sharded(of=Exact(chunk=9), shards=5), vectors),
    "faiss, everything scored": lambda vectors: built(faiss("Flat"), vectors, MOST),
    "faiss, all of four cells": lambda vectors: built(faiss(f"IVF{min(4, len(vectors))},Flat"), vectors, MOST),
    "faiss, one byte a number": lambda vectors: built(faiss("SQ8"), vectors, MOST),
}
APPROXIMATE = {
    "faiss, one cell of four": lambda vectors: built(faiss(f"IVF{min(4, len(vectors))},Flat"), vectors),
    "faiss, a graph": lambda vectors: built(faiss("HNSW8"), vectors),
    "faiss, three shards of a graph": lambda vectors: built(Sharded(of=faiss("HNSW8"), shards=3), vectors),
}


@pytest.fixture(params=EXACT.values(), ids=EXACT.keys())
def build(request):
    return request.param


@pytest.fixture(params=[*EXACT.values(), *APPROXIMATE.values()], ids=[*EXACT.keys(), *APPROXIMATE.keys()])
def build_any(request):
    return request.param


def brute_force(vectors, queries, k, exclude=None):
    """Scores in float64, sorted by (score descending, id ascending) one row at a time."""
    scores = queries.double().numpy() @ vectors.double().numpy().T
    top_scores = np.full((len(queries), k), -np.inf)
    top_ids = np.full((len(queries), k), MISSING)
    for row, row_scores in enumerate(scores):
        barred = set() if exclude is None else set(exclude[row].tolist())
        allowed = [i for i in range(len(vectors)) if i not in barred]
        best = sorted(allowed, key=lambda i: (-row_scores[i], i))[:k]
        top_ids[row, : len(best)] = best
        top_scores[row, : len(best)] = row_scores[best]
    return top_scores, top_ids


def integers(generator, *shape, high=3):
    """Whole numbers from -high to high: exact in every dtype, and full of equal scores."""
    return torch.randint(-high, high + 1, shape, generator=generator).float()


def assert_equals_brute_force(index, vectors, queries, k, exclude=None):
    found = index.search(queries, k, exclude)
    scores, ids = brute_force(vectors, queries, k, exclude)
    assert found.scores.dtype == torch.float32 and found.ids.dtype == torch.int64
    np.testing.assert_array_equal(found.ids.numpy(), ids)
    np.testing.assert_array_equal(found.scores.numpy(), scores)


def test_offers_the_port(build_any):
    index = build_any(torch.eye(4))
    assert isinstance(index, Index)
    assert (index.count, index.dim) == (4, 4)
    assert isinstance(index.collective, bool) and 0 <= index.recall <= 1


@pytest.mark.parametrize("structure", [Exact(), Faiss(), Sharded(of=Exact())], ids=str)
def test_structures_offer_their_port(structure):
    assert isinstance(structure, SearchStructure)


def test_gives_back_the_vectors_that_it_was_made_of(build_any):
    vectors = integers(torch.Generator().manual_seed(2), 40, 8)
    index = build_any(vectors)
    ids = torch.tensor([[3, 39, 3], [MISSING, 0, 17]])
    assert isinstance(index, ReadableIndex)
    expected = vectors[ids.clamp(min=0)]
    expected[1, 0] = 0
    assert torch.equal(index.rows(ids), expected) and index.rows(ids).dtype == torch.float32
    found = index.search(vectors[:5], 3)
    assert torch.equal((index.rows(found.ids) * vectors[:5, None]).sum(dim=2), found.scores)


@pytest.mark.parametrize("seed", range(12))
def test_equals_brute_force_with_ties_exclusion_and_k_beyond_the_corpus(build, seed):
    generator = torch.Generator().manual_seed(seed)

    def up_to(most):
        return int(torch.randint(1, most + 1, (), generator=generator))

    count, dim, rows, k, excluded = up_to(300), up_to(6), up_to(5), up_to(40), up_to(12)
    vectors, queries = integers(generator, count, dim), integers(generator, rows, dim)
    exclude = torch.randint(MISSING, count, (rows, excluded), generator=generator)
    assert_equals_brute_force(build(vectors), vectors, queries, k, exclude)
    assert_equals_brute_force(build(vectors), vectors, queries, k)


def test_all_equal_scores_come_in_the_order_of_ids(build):
    found = build(torch.ones(500, 3)).search(torch.ones(2, 3), 7, torch.tensor([[0, 2], [MISSING, MISSING]]))
    assert found.ids.tolist() == [[1, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6]]


def test_zero_and_minus_zero_are_equal_scores(build):
    vectors = torch.tensor([[-1.0], [0.0], [-0.0], [0.0]])
    assert build(vectors).search(torch.tensor([[1.0], [-1.0]]), 4).ids.tolist() == [[1, 2, 3, 0], [0, 1, 2, 3]]


def test_exclusion_leaves_k_full_even_when_the_whole_top_is_excluded(build):
    vectors = torch.arange(100.0)[:, None]
    exclude = torch.arange(60, 100)[None]
    found = build(vectors).search(torch.ones(1, 1), 5, exclude)
    assert found.ids.tolist() == [[59, 58, 57, 56, 55]]


def test_what_is_left_runs_out_into_missing(build_any):
    found = build_any(torch.eye(3)).search(torch.ones(1, 3), 5, torch.tensor([[1, 1, MISSING]]))
    assert found.ids.tolist() == [[0, 2, MISSING, MISSING, MISSING]]
    assert found.scores.tolist() == [[1.0, 1.0, -torch.inf, -torch.inf, -torch.inf]]


def test_everything_excluded(build_any):
    found = build_any(torch.eye(3)).search(torch.ones(1, 3), 2, torch.tensor([[2, 1, 0]]))
    assert found.ids.tolist() == [[MISSING, MISSING]]
    assert found.scores.tolist() == [[-torch.inf, -torch.inf]]


@pytest.mark.parametrize("seed", range(4))
def test_k_stays_full_of_passages_that_are_not_excluded_with_their_true_scores_in_order(build_any, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors, queries = integers(generator, 90, 5, high=40), integers(generator, 4, 5, high=40)
    exclude = torch.stack([torch.randperm(90, generator=generator)[: 20 * (seed + 1)] for _ in range(4)])
    exclude = torch.cat([exclude, exclude[:, :3], torch.full((4, 1), MISSING)], dim=1)  # some twice
    found, left = build_any(vectors).search(queries, 30, exclude), 90 - 20 * (seed + 1)
    for row in range(4):
        ids, scores = found.ids[row, :left].tolist(), found.scores[row, :left]
        assert MISSING not in ids[:30] and len(set(ids)) == len(ids) and not set(ids) & set(exclude[row].tolist())
        assert torch.equal(scores, vectors[ids] @ queries[row])
        ranked = list(zip(scores.tolist(), (-i for i in ids), strict=True))
        assert ranked == sorted(ranked, reverse=True)
    assert (found.ids[:, left:] == MISSING).all() and (found.scores[:, left:] == -torch.inf).all()


def test_every_index_gives_a_pair_the_same_bits(build):
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(120, 24, generator=generator).bfloat16().float()  # exact in every dtype
    queries = torch.randn(20, 24, generator=generator)
    found = build(vectors).search(queries, 8)
    expected = ExactIndex(vectors).search(queries, 8)
    assert torch.equal(found.ids, expected.ids) and torch.equal(found.scores, expected.scores)
    alone = build(vectors).search(queries[7:8], 3)
    assert torch.equal(alone.scores[0], expected.scores[7, :3])


def test_permuting_the_corpus_permutes_the_ids(build):
    generator = torch.Generator().manual_seed(0)
    vectors = integers(generator, 200, 5, high=40)
    queries = integers(generator, 3, 5, high=40)
    order = torch.randperm(200, generator=generator)
    straight = build(vectors).search(queries, 200)
    permuted = build(vectors[order]).search(queries, 200)
    assert torch.equal(straight.scores, permuted.scores)
    for row in range(3):
        for score in straight.scores[row].unique():
            same = straight.ids[row][straight.scores[row] == score].tolist()
            assert set(same) == set(order[permuted.ids[row][permuted.scores[row] == score]].tolist())


def test_each_question_is_answered_as_if_alone(build):
    generator = torch.Generator().manual_seed(1)
    vectors, queries = integers(generator, 150, 4), integers(generator, 300, 4)
    exclude = torch.randint(0, 150, (300, 3), generator=generator)
    index = build(vectors)
    together = index.search(queries, 6, exclude)
    for row in (0, 1, 255, 256, 299):
        alone = index.search(queries[row : row + 1], 6, exclude[row : row + 1])
        assert torch.equal(alone.ids[0], together.ids[row]) and torch.equal(alone.scores[0], together.scores[row])


def test_no_question_gives_no_answer(build_any):
    found = build_any(torch.eye(3)).search(torch.empty(0, 3), 2)
    assert found.ids.shape == found.scores.shape == (0, 2)


def test_search_changes_neither_queries_nor_exclusions_and_holds_no_graph(build_any):
    queries = torch.ones(2, 3, requires_grad=True)
    exclude = torch.tensor([[0, MISSING], [2, 2]])
    found = build_any(torch.eye(3)).search(queries, 2, exclude)
    assert not found.scores.requires_grad
    assert queries.tolist() == [[1.0] * 3] * 2 and exclude.tolist() == [[0, MISSING], [2, 2]]


@pytest.mark.parametrize("k", [0, -1])
def test_refuses_k_below_one(build_any, k):
    with pytest.raises(BadInput, match=f"k={k}, expected at least 1"):
        build_any(torch.eye(3)).search(torch.ones(1, 3), k)


def test_refuses_queries_of_another_width(build_any):
    with pytest.raises(BadInput, match=r"\(1, 4\), expected \[questions, 3\]"):
        build_any(torch.eye(3)).search(torch.ones(1, 4), 1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_refuses_queries_that_are_not_finite(build_any, bad):
    queries = torch.ones(4, 3)
    queries[2, 1] = bad
    with pytest.raises(BadInput, match="NaN or infinite"):
        build_any(torch.eye(3)).search(queries, 1)
