import itertools
from collections import defaultdict

import numpy as np
import pytest

from data_prep import near_duplicates as module
from data_prep.near_duplicates import SHINGLE, WINDOW, Rules, find_near_duplicates, pairs_within

RUN = SHINGLE + WINDOW - 1


def written(folder, passages, title_length=2):
    """A corpus's arrays for passages given as lists of sentences of tokens, each under a title of its own."""
    folder.mkdir(exist_ok=True)
    tokens, offsets, sentences, sentence_offsets = [], [0], [], [0]
    for number, passage in enumerate(passages):
        tokens += [60_000 + number] * title_length
        body = list(itertools.chain(*passage))
        ends = np.cumsum([len(sentence) for sentence in passage])
        sentences += [(0, 0, end - len(one), end) for one, end in zip(passage, ends, strict=True)]
        tokens += body
        offsets.append(len(tokens))
        sentence_offsets.append(len(sentences))
    np.save(folder / "tokens.npy", np.array(tokens, dtype=np.uint16))
    np.save(folder / "token_offsets.npy", np.array(offsets))
    np.save(folder / "title_lengths.npy", np.full(len(passages), title_length, dtype=np.int32))
    np.save(folder / "sentences.npy", np.array(sentences, dtype=np.int32).reshape(-1, 4))
    np.save(folder / "sentence_offsets.npy", np.array(sentence_offsets))
    return folder


def found(folder, rules=None, workers=1):
    """Near duplicates of every passage, and the counts."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    counts = find_near_duplicates(folder, scratch, rules=rules or Rules(), workers=workers)
    near, offsets = np.load(folder / "near_duplicates.npy"), np.load(folder / "near_duplicate_offsets.npy")
    return [near[a:b].tolist() for a, b in itertools.pairwise(offsets)], counts


def sharing(items_of_passages):
    """Brute force: for every passage the others that have an item in common with it."""
    holders = defaultdict(set)
    for passage, items in enumerate(items_of_passages):
        for item in items:
            holders[item].add(passage)
    return [
        sorted(set().union(*(holders[item] for item in items), [p]) - {p}) for p, items in enumerate(items_of_passages)
    ]


def runs(passage, length):
    body = list(itertools.chain(*passage))
    return {tuple(body[start : start + length]) for start in range(len(body) - length + 1)}


def random_passages(rng, count, vocabulary):
    """Passages of random sentences, into which stretches and whole sentences of others are pasted."""
    passages = [
        [rng.integers(0, vocabulary, rng.integers(1, 25)).tolist() for _ in range(rng.integers(1, 5))]
        for _ in range(count)
    ]
    for _ in range(count):
        here, there = rng.integers(0, count, 2)
        body = list(itertools.chain(*passages[there]))
        start = rng.integers(0, len(body))
        stretch = body[start : start + rng.integers(5, 30)]
        passages[here].insert(rng.integers(0, len(passages[here]) + 1), stretch)
        if rng.random() < 0.3:
            passages[here].append(list(passages[there][0]))
    return passages


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("vocabulary", [3, 50, 5000])
def test_every_shared_run_and_sentence_is_found_and_nothing_else(tmp_path, seed, vocabulary):
    rng = np.random.default_rng(seed)
    passages = random_passages(rng, 40, vocabulary)
    near, _ = found(written(tmp_path / "c", passages), Rules(min_sentence=6, max_common=10**6))
    sentences = [{(0, *one) for one in passage if len(one) >= 6} for passage in passages]
    must = sharing([runs(passage, RUN) | own for passage, own in zip(passages, sentences, strict=True)])
    may = sharing([runs(passage, SHINGLE) | own for passage, own in zip(passages, sentences, strict=True)])
    assert any(must)
    for here, least, most in zip(near, must, may, strict=True):
        assert set(least) <= set(here) <= set(most)


def test_they_are_symmetric_sorted_and_never_the_passage_itself(tmp_path):
    passages = random_passages(np.random.default_rng(1), 60, 4)
    near, counts = found(written(tmp_path / "c", passages))
    pairs = {(here, other) for here, others in enumerate(near) for other in others}
    assert pairs == {(other, here) for here, other in pairs} and all(here != other for here, other in pairs)
    assert all(others == sorted(set(others)) for others in near)
    assert counts["pairs"] == len(pairs) // 2 and counts["passages_with_one"] == sum(map(bool, near))


def test_titles_and_neighbours_share_nothing(tmp_path):
    """A run may not reach over the end of a body into the next passage's title, and titles are not compared."""
    half = list(range(10))
    folder = written(tmp_path / "c", [[half], [half[:5]], [half], [half[:5]]], title_length=0)
    near, _ = found(folder)
    assert near == [[2], [], [0], []]
    assert found(written(tmp_path / "d", [[[1, 2]], [[3, 4]]], title_length=40))[0] == [[], []]


def test_boilerplate_is_left_out_and_counted(tmp_path):
    common = [[7, 8, 9, 10, 11, 12]]
    passages = [common + [[100 + number] * 3] for number in range(6)]
    assert found(written(tmp_path / "c", passages), Rules(max_common=5)) == (
        [[]] * 6,
        {"pairs": 0, "passages_with_one": 0, "common_fingerprints": 1},
    )
    near, counts = found(written(tmp_path / "c", passages), Rules(max_common=6))
    assert near == [[other for other in range(6) if other != here] for here in range(6)] and counts["pairs"] == 15


def test_chunks_ranges_and_workers_change_nothing(tmp_path, monkeypatch):
    passages = random_passages(np.random.default_rng(2), 80, 6)
    folder = written(tmp_path / "c", passages)
    whole = found(folder)
    assert found(folder, workers=2) == whole
    monkeypatch.setattr(module, "CHUNK_PASSAGES", 7)
    monkeypatch.setattr(module, "RANGE_ENTRIES", 100)
    assert found(folder) == whole and len(list((folder / "scratch").glob("pairs-*"))) > 5


@pytest.mark.parametrize("passages", [[[[1]]], [[[1, 2]], [[1, 2]]], [[list(range(15))], [list(range(15))]]])
def test_tiny_corpora(tmp_path, passages):
    near, _ = found(written(tmp_path / "c", passages))
    assert near == ([[1], [0]] if len(passages[0][0]) >= 6 else [[]] * len(passages))


def test_pairs_within_groups():
    hashes, passages = np.array([1, 1, 1, 2, 3, 3], np.uint64), np.array([4, 5, 9, 4, 0, 4], np.uint64)
    pairs = [(int(pair) >> 32, int(pair) & 0xFFFFFFFF) for pair in pairs_within(hashes, passages)]
    assert pairs == [(0, 4), (4, 0), (4, 5), (4, 9), (5, 4), (5, 9), (9, 4), (9, 5)]
