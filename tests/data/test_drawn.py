"""What a stage drew, against drawing all of it."""

import numpy as np
import pytest

from realm_train.batch import MISSING
from realm_train.data.drawn import always_serves_itself, drawn_sentences, sentence_key
from realm_train.data.ict import ClozePairs
from realm_train.data.masked import MaskedSentences
from realm_train.data.masking import SalientMasking, SpanMasking
from realm_train.data.oracle import Oracle


def sentences_of(corpus, passage):
    body = corpus.body(passage)
    return [body[start:end].astype(np.int64) for start, end in corpus.sentences(passage)[:, 2:4].tolist()]


def by_hand(corpus, drawn):
    """The whole sentences that these (passage, pieces, longest) were taken from."""
    keys = set()
    for passage, taken, longest in drawn:
        found = [
            one
            for one in sentences_of(corpus, passage)
            if one.tolist() == taken.tolist() or (len(taken) == longest and cut_from(one, taken))
        ]
        assert found, "what was drawn is a sentence, or as much of it as fits"
        keys |= {sentence_key(one) for one in found}
    return keys


def cut_from(sentence, taken):
    return any((sentence[start : start + len(taken)] == taken).all() for start in range(len(sentence) - len(taken) + 1))


def every(corpus):
    return {sentence_key(one) for passage in range(len(corpus)) for one in sentences_of(corpus, passage)}


@pytest.mark.parametrize("count", [5, 250])
@pytest.mark.parametrize("masking, length", [(SpanMasking(), 64), (SpanMasking(), 20), (SalientMasking(), 30)])
def test_masked_sentences_are_those_that_training_saw(spanned, masking, length, count):
    stream = MaskedSentences(spanned, masking, query_length=length, seed=3, heldout_percent=20.0)
    examples = [stream[position] for position in range(count)]
    expected = by_hand(spanned, [(one.passage, one.masked.original, length - 2) for one in examples])
    assert drawn_sentences(stream, count, range(len(spanned))) == expected
    assert expected < every(spanned)


def test_of_some_passages_only_their_sentences_and_those_of_near_duplicates_are_told(spanned):
    stream = MaskedSentences(spanned, SalientMasking(), query_length=30, seed=3)
    all_of_them = drawn_sentences(stream, 300, range(len(spanned)))
    for passage in (0, 5, 11):
        group = [passage, *spanned.near_duplicates(passage).tolist()]
        own = {sentence_key(one) for number in group for one in sentences_of(spanned, number)}
        few = drawn_sentences(stream, 300, [passage])
        assert few <= own
        mine = {sentence_key(one) for one in sentences_of(spanned, passage)}
        elsewhere = {
            sentence_key(one)
            for number in range(len(spanned))
            if number not in group
            for one in sentences_of(spanned, number)
        }
        assert few & mine - elsewhere == all_of_them & mine - elsewhere


def test_a_passage_that_gives_way_never_serves_itself_for_certain(spanned):
    stream = MaskedSentences(spanned, SalientMasking(), query_length=30, min_length=20, seed=3)
    certain = always_serves_itself(stream, 500)
    gave_way = [p for p in range(500) if stream[p].passage != stream.order[p]]
    assert gave_way and not any(certain[stream.order[position]] for position in gave_way)
    assert certain.any()


@pytest.mark.parametrize("across_rate", [0.0, 0.5, 1.0])
def test_cloze_pairs_are_those_that_training_saw(spanned, across_rate):
    across = MaskedSentences(spanned, SalientMasking(), query_length=30, seed=1, oracle=Oracle(spanned))
    stream = ClozePairs(
        spanned, query_length=30, seed=1, across=across if across_rate else None, across_rate=across_rate
    )
    drawn, helped = [], 0
    for position in range(200):
        pair = stream[position]
        if spanned.mask_id in pair.query:
            example = across[position]
            assert example.helpful == pair.passage != MISSING
            drawn.append((example.passage, example.masked.original, 28))
            helped += 1
        else:
            drawn.append((pair.passage, pair.query, 28))
    assert (helped > 0) == (across_rate > 0)
    assert drawn_sentences(stream, 200, range(len(spanned))) == by_hand(spanned, drawn)
