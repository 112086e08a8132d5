"""Measures of retrieval by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from realm_train.batch import MISSING
from realm_train.evaluation.retrieval import holds_answer, holds_run, overlap_at, recall_at

HITS = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]], dtype=bool)


@pytest.mark.parametrize("k, recall", [(1, 0.25), (2, 0.5), (3, 0.75), (20, 0.75)])
def test_recall_is_the_share_of_questions_with_a_hit(k, recall):
    assert recall_at(HITS, k) == recall


def test_recall_of_no_question_is_zero():
    assert recall_at(HITS[:0], 5) == 0.0


def test_overlap_is_the_mean_share_in_common():
    first = np.array([[1, 2, 3, 4], [5, 6, MISSING, MISSING], [MISSING] * 4])
    second = np.array([[4, 3, 9, 8], [6, MISSING, 5, MISSING], [1, 2, 3, 4]])
    assert overlap_at(first, second, 4) == pytest.approx((2 / 4 + 2 / 2) / 2)  # the third found nothing: left out
    assert overlap_at(first, second, 1) == 0.0
    assert overlap_at(first, second, 2) == pytest.approx((0 / 2 + 1 / 2) / 2)
    assert overlap_at(first, first, 4) == overlap_at(first[2:], second[2:], 4) == 1.0


def naive_starts(tokens, run) -> list[int]:
    return [at for at in range(len(tokens) - len(run) + 1) if list(tokens[at : at + len(run)]) == list(run)]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_runs_are_found_as_brute_force_finds_them(dtype):
    rng, found = np.random.default_rng(0), 0
    for _ in range(600):
        # few numbers, some of which hold each other's bytes: 257 is 1 and 1
        tokens = rng.choice([0, 1, 256, 257], rng.integers(0, 12)).astype(dtype)
        run = rng.choice([0, 1, 256, 257], rng.integers(1, 4)).astype(dtype)
        expected = bool(naive_starts(tokens, run))
        assert holds_run(tokens, run) == expected
        found += expected
    assert 100 < found < 500


def test_an_empty_run_stands_nowhere_and_bytes_between_pieces_do_not_count():
    nothing = np.empty(0, np.int64)
    assert not holds_run(np.array([1, 2]), nothing) and not holds_run(nothing, np.array([1]))
    assert not holds_run(np.array([1 << 8, 0]), np.array([1]))
    assert not holds_run(np.array([1 << 16, 1 << 16]), np.array([1]))
    assert holds_run(np.array([1 << 8, 1]), np.array([1]))


def test_answers_are_whole_words():
    rng = np.random.default_rng(1)
    word_starts = np.array([True, True, True, False, False])
    found = 0
    for _ in range(600):
        tokens, answer = rng.integers(0, 5, rng.integers(1, 12)), rng.integers(0, 5, rng.integers(1, 3))
        expected = any(
            word_starts[answer[0]] and (at + len(answer) == len(tokens) or word_starts[tokens[at + len(answer)]])
            for at in naive_starts(tokens, answer)
        )
        assert holds_answer(tokens, answer, word_starts) == expected
        found += expected
    assert 60 < found < 500


def test_no_answer_and_one_longer_than_the_passage_are_not_held():
    word_starts = np.ones(5, dtype=bool)
    assert not holds_answer(np.array([1, 2]), np.empty(0, np.int64), word_starts)
    assert not holds_answer(np.array([1, 2]), np.array([1, 2, 3]), word_starts)
    assert holds_answer(np.array([1, 2]), np.array([1, 2]), word_starts)
