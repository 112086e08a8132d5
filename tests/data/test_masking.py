"""Masks: every one has a target, no copy of an answer is left, and the rates are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from realm_train.data.masking import (
    Masked,
    SalientMasking,
    SpanMasking,
    TokenMasking,
    eligible,
    occurrences,
    window,
)
from realm_train.errors import BadInput

MASK = 4
MASKINGS = [SalientMasking(), SalientMasking(all_occurrences=False), SpanMasking(), TokenMasking()]
NO_SPANS = np.empty((0, 2), dtype=np.int32)


def starts(*flags: int) -> np.ndarray:
    return np.array(flags, dtype=bool)


def random_sentence(rng: np.random.Generator, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Few distinct pieces, so that copies are common; spans lie anywhere, some of them partly outside."""
    tokens = rng.integers(5, 9, length).astype(np.uint16)
    word_starts = rng.random(length) < 0.7
    first = rng.integers(-1, length + 1, 4)
    return tokens, word_starts, np.stack([first, first + rng.integers(0, 4, 4)], axis=1).astype(np.int32)


def copies_left(tokens: np.ndarray, pattern: np.ndarray) -> int:
    return sum(np.array_equal(tokens[at : at + len(pattern)], pattern) for at in range(len(tokens) - len(pattern) + 1))


@pytest.mark.parametrize("masking", MASKINGS)
def test_every_mask_has_a_target_and_restoring_the_targets_gives_the_sentence_back(masking):
    rng, masked_sentences = np.random.default_rng(0), 0
    for _ in range(300):
        tokens, word_starts, spans = random_sentence(rng, int(rng.integers(0, 30)))
        masked = masking(tokens, word_starts, spans, rng, MASK)
        assert eligible(masking, tokens, word_starts, spans, MASK) == (masked is not None)
        if masked is None:
            continue
        masked_sentences += 1
        assert 1 <= len(masked.positions) <= masking.max_masks
        assert np.array_equal(np.flatnonzero(masked.tokens == MASK), masked.positions)
        restored = masked.tokens.copy()
        restored[masked.positions] = masked.targets
        assert np.array_equal(restored, tokens) and np.array_equal(masked.original, tokens)
        steps = np.diff(masked.spans, prepend=0)
        assert masked.spans[0] == 0 and set(steps.tolist()) <= {0, 1}
    assert masked_sentences > 150


@pytest.mark.parametrize("masking", MASKINGS)
def test_the_same_seed_masks_the_same_and_other_seeds_do_not(masking):
    tokens, word_starts = np.arange(10, 50), np.ones(40, dtype=bool)
    spans = np.array([[i, i + 2] for i in range(0, 40, 2)])

    def positions(seed: int) -> list[int]:
        return masking(tokens, word_starts, spans, np.random.default_rng(seed), MASK).positions.tolist()

    assert positions(3) == positions(3)
    assert len({tuple(positions(seed)) for seed in range(10)}) > 3


@pytest.mark.parametrize("masking", MASKINGS)
def test_a_sentence_that_holds_the_mask_itself_is_no_question(masking):
    tokens, spans = np.array([10, MASK, 12, 13]), np.array([[2, 4]])
    assert masking(tokens, np.ones(4, dtype=bool), spans, np.random.default_rng(0), MASK) is None


def test_salient_masks_one_whole_span_and_nothing_else():
    tokens, spans = np.arange(10, 20), np.array([[1, 3], [5, 8]])
    seen = set()
    for seed in range(20):
        masked = SalientMasking()(tokens, np.ones(10, dtype=bool), spans, np.random.default_rng(seed), MASK)
        seen.add(tuple(masked.positions.tolist()))
        assert (masked.spans == 0).all()
    assert seen == {(1, 2), (5, 6, 7)}


def test_salient_spans_are_drawn_uniformly_among_the_eligible():
    tokens = np.arange(10, 40)
    spans = np.array(
        [[0, 1], [1, 13], [14, 16], [20, 25], [28, 31]]
    )  # the second is too long, the last reaches outside
    rng, draws = np.random.default_rng(0), 3000
    firsts = [SalientMasking()(tokens, np.ones(30, dtype=bool), spans, rng, MASK).positions[0] for _ in range(draws)]
    counts = np.bincount(firsts, minlength=30)
    assert set(np.flatnonzero(counts).tolist()) == {0, 14, 20}
    assert np.abs(counts[[0, 14, 20]] - draws / 3).max() < 4 * np.sqrt(draws * (1 / 3) * (2 / 3))


def test_all_occurrences_leave_no_copy_not_even_inside_a_longer_word():
    rng, with_copies = np.random.default_rng(1), 0
    for _ in range(300):
        tokens, word_starts, _ = random_sentence(rng, 12)
        start = int(rng.integers(0, 11))
        span = np.array([[start, start + int(rng.integers(1, 3))]])
        pattern = tokens[span[0, 0] : span[0, 1]]
        masked = SalientMasking(max_masks=12)(tokens, word_starts, span, rng, MASK)
        assert copies_left(masked.tokens, pattern) == 0
        with_copies += copies_left(tokens, pattern) > 1
        one = SalientMasking(all_occurrences=False)(tokens, word_starts, span, rng, MASK)
        assert one.positions.tolist() == list(range(*span[0]))
    assert with_copies > 100


def test_occurrences_cover_overlapping_copies_and_only_copies():
    assert occurrences(np.array([7, 7, 7, 8, 7]), np.array([7, 7])).tolist() == [0, 1, 2]
    assert occurrences(np.array([7, 8, 7, 8, 7, 9]), np.array([7, 8, 7])).tolist() == [0, 1, 2, 3, 4]
    assert occurrences(np.array([9, 7, 8]), np.array([7, 8])).tolist() == [1, 2]


def test_a_span_that_needs_too_many_masks_is_left_out_and_never_cut():
    tokens = np.array([7, 8, 7, 8, 7, 8, 9])
    word_starts, rng = np.ones(7, dtype=bool), np.random.default_rng(0)
    assert SalientMasking(max_masks=5)(tokens, word_starts, np.array([[0, 2]]), rng, MASK) is None
    assert len(SalientMasking(max_masks=6)(tokens, word_starts, np.array([[0, 2]]), rng, MASK).positions) == 6
    choice = SalientMasking(max_masks=5)(tokens, word_starts, np.array([[0, 2], [6, 7]]), rng, MASK)
    assert choice.positions.tolist() == [6]


def test_salient_without_a_span_inside_the_sentence_is_none():
    tokens, word_starts, rng = np.arange(10, 15), np.ones(5, dtype=bool), np.random.default_rng(0)
    for spans in (NO_SPANS, np.array([[-1, 2]]), np.array([[3, 6]]), np.array([[2, 2]])):
        assert SalientMasking()(tokens, word_starts, spans, rng, MASK) is None


@pytest.mark.parametrize("masking", [SpanMasking(), TokenMasking()])
def test_the_masked_share_is_the_rate_within_binomial_bounds(masking):
    rng, masks, pieces = np.random.default_rng(0), 0, 0
    for _ in range(1500):
        tokens, word_starts, _ = random_sentence(rng, int(rng.integers(20, 50)))
        masks += len(masking(tokens, word_starts, NO_SPANS, rng, MASK).positions)
        pieces += len(tokens)
    assert abs(masks / pieces - 0.15) < 4 * np.sqrt(0.15 * 0.85 / pieces)


@pytest.mark.parametrize("masking", [SpanMasking(max_masks=3), TokenMasking(max_masks=3)])
def test_a_sentence_with_a_token_has_a_mask_and_never_more_than_the_most(masking):
    rng = np.random.default_rng(0)
    for length in range(1, 60):
        masked = masking(np.arange(10, 10 + length), np.ones(length, dtype=bool), NO_SPANS, rng, MASK)
        assert 1 <= len(masked.positions) <= 3
    assert masking(np.empty(0, dtype=np.int64), starts(), NO_SPANS, rng, MASK) is None


def words_of(word_starts: np.ndarray) -> np.ndarray:
    words = np.cumsum(word_starts)
    return words - words[0]


def test_span_masking_hides_whole_words_of_which_none_is_left_half():
    rng = np.random.default_rng(0)
    for _ in range(300):
        tokens, word_starts, _ = random_sentence(rng, 40)  # half of them begin inside a word
        words = words_of(word_starts)
        hidden = SpanMasking()(tokens, word_starts, NO_SPANS, rng, MASK).tokens == MASK
        assert all(len(set(hidden[words == word].tolist())) == 1 for word in np.unique(words))


def test_span_masking_without_a_word_that_fits_is_none():
    rng = np.random.default_rng(0)
    assert SpanMasking(max_masks=2)(np.arange(10, 13), starts(1, 0, 0), NO_SPANS, rng, MASK) is None
    masked = SpanMasking(max_masks=2)(np.arange(10, 15), starts(1, 0, 0, 1, 0), NO_SPANS, rng, MASK)
    assert masked.positions.tolist() == [3, 4]


def test_span_lengths_are_geometric_with_the_given_mean():
    masking, rng = SpanMasking(mean_length=3.0, max_length=40), np.random.default_rng(0)
    lengths = np.array([masking._length(rng) for _ in range(5000)])
    assert abs(lengths.mean() - 3) < 4 * np.sqrt(6 / 5000)  # a geometric's variance is mean * (mean - 1)
    assert abs((lengths == 1).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / 5000)
    assert max(SpanMasking(max_length=4)._length(rng) for _ in range(500)) == 4


def test_token_masking_draws_every_position_alike_and_each_is_its_own_span():
    rng, draws = np.random.default_rng(0), 2000
    counts = np.zeros(20)
    for _ in range(draws):
        masked = TokenMasking()(np.arange(10, 30), np.ones(20, dtype=bool), NO_SPANS, rng, MASK)
        assert masked.spans.tolist() == list(range(3))
        counts[masked.positions] += 1
    assert np.abs(counts / draws - 0.15).max() < 4 * np.sqrt(0.15 * 0.85 / draws)


@pytest.mark.parametrize(
    ("length", "span", "expected"),
    [(5, (2, 3), (0, 5)), (100, (0, 3), (0, 10)), (100, (97, 100), (90, 100)), (100, (50, 54), (47, 57))],
)
def test_window_holds_the_span_in_the_middle(length, span, expected):
    assert window(length, span, max_length=10) == expected


def test_window_always_holds_the_span_and_is_as_long_as_it_may_be():
    rng = np.random.default_rng(0)
    for _ in range(500):
        length = int(rng.integers(1, 40))
        start = int(rng.integers(0, length))
        end = int(rng.integers(start, length)) + 1
        most = int(rng.integers(end - start, 45))
        first, last = window(length, (start, end), most)
        assert 0 <= first <= start and end <= last <= length and last - first == min(length, most)


def test_window_refuses_a_span_longer_than_itself():
    with pytest.raises(BadInput, match="span of 5 word pieces does not fit in 4"):
        window(20, (3, 8), 4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SalientMasking(max_masks=0),
        lambda: SpanMasking(rate=0.0),
        lambda: SpanMasking(mean_length=0.5),
        lambda: SpanMasking(max_length=0),
        lambda: TokenMasking(rate=1.5),
        lambda: TokenMasking(max_masks=0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make):
    with pytest.raises(BadInput, match=r"masking: \w+: got .*, expected"):
        make()


def test_masked_is_frozen():
    masked = TokenMasking()(np.arange(10, 13), starts(1, 1, 1), NO_SPANS, np.random.default_rng(0), MASK)
    assert isinstance(masked, Masked)
    with pytest.raises(AttributeError):
        masked.tokens = masked.original
