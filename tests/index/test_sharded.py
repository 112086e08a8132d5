"""Shards give what one index gives, to the bit: in one process, and over two ranks with unequal questions."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from two_ranks import on_two_ranks

from realm_train.batch import MISSING, Neighbours
from realm_train.errors import BadInput
from realm_train.index.exact import Exact, ExactIndex
from realm_train.index.faiss import Faiss
from realm_train.index.sharded import Sharded, ShardedIndex, bounds, merged
from realm_train.index.store import IndexStore
from realm_train.ports import WritableIndex

CPU = torch.device("cpu")
COUNT, DIM = 37, 8


def world(seed=0, count=COUNT, questions=9, excluded=3):
    """Vectors in fp16, many of them twice, so that scores tie across shards."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, DIM, generator=generator)
    vectors[count // 2 :] = vectors[: count - count // 2].clone()
    exclude = torch.randint(MISSING, count, (questions, excluded), generator=generator)
    return vectors.half().numpy(), torch.randn(questions, DIM, generator=generator), exclude


def same(found, expected):
    return torch.equal(found.ids, expected.ids) and torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("shards", [1, 2, 5, 36, 37, 50])
@pytest.mark.parametrize("k", [1, 6, 20, 45])
def test_equals_one_index_to_the_bit(shards, k, tmp_path):
    vectors, queries, exclude = world()
    index = Sharded(of=Exact(), shards=shards).load(vectors, tmp_path, {"kind": "exact"}, CPU)
    whole = Exact().load(vectors, tmp_path, {"kind": "exact"}, CPU)
    assert [len(part.vectors) for _, part in index.parts] == [len(vectors[rows]) for rows in bounds(COUNT, shards)]
    for barred in (None, exclude):
        assert same(index.search(queries, k, barred), whole.search(queries, k, barred))


@pytest.mark.parametrize(("count", "parts"), [(0, 3), (2, 5), (10, 3), (13_353_718, 64)])
def test_bounds_cover_everything_once_in_order_and_evenly(count, parts):
    rows = bounds(count, parts)
    assert rows[0].start == 0 and rows[-1].stop == count and len(rows) == parts
    assert all(one.stop == other.start for one, other in zip(rows, rows[1:], strict=False))
    sizes = {part.stop - part.start for part in rows}
    assert max(sizes) - min(sizes) <= 1


def test_merging_prefers_the_earlier_part_among_equals_and_puts_what_is_missing_last():
    parts = [
        Neighbours(scores=torch.tensor([[2.0, 1.0, -torch.inf]]), ids=torch.tensor([[0, 1, MISSING]])),
        Neighbours(scores=torch.tensor([[2.0, 1.5, 1.0]]), ids=torch.tensor([[3, 5, 4]])),
    ]
    best = merged(parts, 6)
    assert best.ids.tolist() == [[0, 3, 5, 1, 4, MISSING]] and merged(parts, 2).ids.tolist() == [[0, 3]]


def test_only_the_rows_of_a_shard_are_held(tmp_path):
    vectors, _, _ = world()
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="c")
    index = Sharded(of=Exact(dtype="float32"), shards=4).load(mapped, tmp_path, {"kind": "exact"}, CPU)
    assert [part.vectors.untyped_storage().nbytes() for _, part in index.parts] == [4 * DIM * n for n in (9, 9, 9, 10)]
    in_place = Sharded(of=Exact(), shards=4).load(mapped, tmp_path, {"kind": "exact"}, CPU)
    assert in_place.parts[1][1].vectors.data_ptr() == mapped[9:].ctypes.data


def test_written_vectors_reach_the_shard_that_holds_them(tmp_path):
    vectors, queries, _ = world()
    index = Sharded(of=Exact(dtype="float32"), shards=3).load(vectors, tmp_path, {"kind": "exact"}, CPU)
    whole = ExactIndex(torch.from_numpy(vectors).float())
    ids = torch.tensor([0, 11, 12, 36, 30])
    newer = torch.randn(5, DIM, generator=torch.Generator().manual_seed(3))
    assert isinstance(index, WritableIndex)
    index.write(ids, newer)
    whole.write(ids, newer)
    assert same(index.search(queries, 37), whole.search(queries, 37))
    with pytest.raises(BadInput, match="not among its 37"):
        index.write(torch.tensor([37]), newer[:1])


def test_shards_of_faiss_are_built_published_and_found_as_one_index(tmp_path):
    pytest.importorskip("faiss")
    vectors, queries, exclude = world(count=200)
    structure = Sharded(of=Faiss(factory="Flat", queries=20), shards=3)
    store = IndexStore(tmp_path)
    facts = {"trained_step": 0, "tower": "t", "corpus": "c", "seconds": 0.0, "dtype": "float16"}
    version = store.publish([vectors], count=200, dim=DIM, structure=structure, **facts)
    manifest, index = store.open(version, structure, corpus="c")
    assert sorted(manifest["search"]["files"]) == [f"shard-0000{shard}/index.faiss" for shard in range(3)]
    assert manifest["search"]["kind"] == "sharded faiss" and index.recall == 1.0 and index.collective
    assert same(index.search(queries, 9, exclude), ExactIndex(torch.from_numpy(vectors)).search(queries, 9, exclude))
    with pytest.raises(BadInput, match="take no newer vectors"):
        index.write(torch.tensor([0]), torch.zeros(1, DIM))
    with pytest.raises(BadInput, match="published for index=sharded faiss, got index=faiss"):
        store.open(version, structure.of, corpus="c")


def test_refuses_shards_that_cannot_be(tmp_path):
    with pytest.raises(BadInput, match="index.shards: got 0"):
        Sharded(of=Exact(), shards=0)
    with pytest.raises(BadInput, match="expected a number of shards to build index=faiss in"):
        Sharded(of=Faiss())
    with pytest.raises(BadInput, match="index.shards: got 9 for 4 passages"):
        Sharded(of=Faiss(), shards=9).build(np.eye(4, dtype=np.float32), tmp_path)


CASES = {  # shards, k, questions of both ranks, excluded columns of both ranks; and the shards that each then holds
    (None, 6, (5, 4), (3, 3)): (1, 1),
    (None, 30, (1, 6), (0, 2)): (1, 1),
    (5, 3, (0, 4), (0, 3)): (2, 3),
    (1, 50, (3, 3), (2, 1)): (0, 1),
    (2, 4, (0, 0), (0, 0)): (1, 1),
}


def searched_in_shards():
    """What a rank finds for its own questions in every case, and how many shards it holds."""
    answers, rank = [], dist.get_rank()
    for shards, k, questions, excluded in CASES:
        vectors, queries, exclude = world(questions=sum(questions))
        index = Sharded(of=Exact(), shards=shards).load(vectors, Path("."), {"kind": "exact"}, CPU)
        mine = slice(0, questions[0]) if rank == 0 else slice(questions[0], sum(questions))
        found = index.search(queries[mine], k, exclude[mine, : excluded[rank]] if excluded[rank] else None)
        answers.append((len(index.parts), found.scores, found.ids, index.rows(found.ids)))
    return answers


def test_two_ranks_find_what_one_index_finds_to_the_bit(tmp_path):
    ranks = on_two_ranks(searched_in_shards, tmp_path)
    for case, ((_, k, questions, excluded), held) in enumerate(CASES.items()):
        vectors, queries, exclude = world(questions=sum(questions))
        whole, start = ExactIndex(torch.from_numpy(vectors)), 0
        for rank, number, columns in zip(ranks, questions, excluded, strict=True):
            _, scores, ids, rows = rank[case]
            mine = slice(start, start + number)
            expected = whole.search(queries[mine], k, exclude[mine, :columns])
            assert torch.equal(ids, expected.ids) and torch.equal(scores, expected.scores)
            assert torch.equal(rows, whole.rows(ids))
            start += number
        assert tuple(rank[case][0] for rank in ranks) == held


def refusals():
    """The messages of searches that one rank makes wrongly, and whether the next one works again."""
    vectors, queries, _ = world()
    index, rank = Sharded(of=Exact()).load(vectors, Path("."), {"kind": "exact"}, CPU), dist.get_rank()
    broken = queries.clone()
    broken[0, 0] = torch.nan
    messages = []
    for asked, k in ((broken if rank == 1 else queries, 3), (queries[:, : 8 - rank], 3), (queries, 3 + rank)):
        try:
            index.search(asked, k)
        except BadInput as refusal:
            messages.append(str(refusal))
    return messages, index.search(queries, 3).ids


def test_what_one_rank_gets_wrong_is_refused_on_both_and_nobody_waits(tmp_path):
    (first, ids), (second, _) = on_two_ranks(refusals, tmp_path)
    assert [message.split(";")[0] for message in first] == [
        "index: rank 1 refused its questions",
        "index: rank 1 refused its questions",
        "index: got k=3 here and [3, 4] on all ranks, expected the same on each",
    ]
    assert "NaN or infinite" in second[0] and "(9, 7)" in second[1] and "k=4 here" in second[2]
    vectors, queries, _ = world()
    assert torch.equal(ids, ExactIndex(torch.from_numpy(vectors)).search(queries, 3).ids)


def test_without_ranks_an_index_of_no_part_finds_nothing():
    found = ShardedIndex([], count=0, dim=3).search(torch.ones(2, 3), 2)
    assert found.ids.tolist() == [[MISSING, MISSING]] * 2
