"""The inverse cloze task: the query is in its passage exactly when it was kept, and nothing else is touched."""

from __future__ import annotations

import math
import pickle

import pytest
from spanned import same_batches

from realm_train.batch import MISSING
from realm_train.data.ict import ClozePairs
from realm_train.errors import BadInput

COUNT = 150


def sentence_cuts(corpus, passage) -> list[tuple[int, int]]:
    return [tuple(cut) for cut in corpus.sentences(passage)[:, 2:4].tolist()]


@pytest.mark.parametrize("keep_rate", [0.0, 0.5, 1.0])
def test_the_rest_of_the_body_is_the_passage_without_the_sentence(corpus, keep_rate):
    pairs = ClozePairs(corpus, keep_rate=keep_rate, query_length=400)
    for pair in (pairs[position] for position in range(COUNT)):
        body = corpus.body(pair.passage).tolist()
        without = [
            body[:start] + body[end:]
            for start, end in sentence_cuts(corpus, pair.passage)
            if body[start:end] == pair.query.tolist()
        ]
        assert without and pair.title.tolist() == corpus.title(pair.passage).tolist()
        assert pair.body.tolist() == body if pair.kept else pair.body.tolist() in without


def test_rows_are_the_padded_pairs(corpus):
    pairs = ClozePairs(corpus, keep_rate=0.5)
    batch = pairs.batch(range(COUNT))
    assert batch.kept.tolist() == [pairs[position].kept for position in range(COUNT)]
    for row in range(COUNT):
        pair = pairs[row]
        length = int(batch.queries.lengths[row])
        assert batch.queries.ids[row, :length].tolist() == [corpus.cls_id, *pair.query, corpus.sep_id]
        length, second = int(batch.passages.lengths[row]), int(batch.passages.second[row])
        title, body = [corpus.cls_id, *pair.title, corpus.sep_id], [*pair.body, corpus.sep_id]
        assert batch.passages.ids[row, :second].tolist() == title
        assert batch.passages.ids[row, second:length].tolist() == body
        assert (batch.passages.ids[row, length:] == corpus.pad_id).all()


def test_a_kept_sentence_leaves_the_input_that_the_index_encodes(corpus):
    pairs = ClozePairs(corpus, keep_rate=1.0, passage_length=40)
    batch = pairs.batch(range(COUNT))
    expected = corpus.sequences(batch.source.numpy(), 40)
    assert batch.kept.all() and batch.passages.ids.equal(expected.ids)
    assert batch.passages.lengths.equal(expected.lengths) and batch.passages.second.equal(expected.second)


def test_lengths_are_respected(corpus):
    batch = ClozePairs(corpus, query_length=12, passage_length=30).batch(range(COUNT))
    assert batch.queries.lengths.max() == 12 and batch.passages.lengths.max() == 30


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_sentences_are_kept_at_their_rate(corpus, rate):
    pairs = ClozePairs(corpus, keep_rate=rate)
    draws = 2000
    kept = sum(pairs[position].kept for position in range(draws))
    assert abs(kept - rate * draws) < 4 * math.sqrt(rate * (1 - rate) * draws)


def test_every_passage_of_two_sentences_comes_once_an_epoch(corpus):
    pairs = ClozePairs(corpus, heldout_percent=0.0)
    expected = [passage for passage in range(len(corpus)) if len(corpus.sentences(passage)) >= 2]
    for start in (0, len(expected)):
        drawn = sorted(pairs[position].passage for position in range(start, start + len(expected)))
        assert drawn == expected and 0 < len(expected) < len(corpus)


def test_training_and_held_out_share_no_document(corpus):
    train, held = (
        {int(corpus.documents[p]) for p in ClozePairs(corpus, heldout_percent=20.0, heldout=heldout).order.items}
        for heldout in (False, True)
    )
    assert train and held and not train & held


def test_positions_do_not_depend_on_what_was_asked_before(corpus):
    ordered = [ClozePairs(corpus).batch([position]) for position in range(30)]
    pairs = ClozePairs(corpus)
    assert same_batches([pairs.batch([position]) for position in reversed(range(30))][::-1], ordered)
    assert same_batches([pickle.loads(pickle.dumps(pairs)).batch([position]) for position in range(30)], ordered)


def test_micro_batches_are_the_examples_in_order(corpus):
    pairs = ClozePairs(corpus)
    assert same_batches(
        pairs.micro_batches(range(10, 16), 2), [pairs.batch(range(start, start + 2)) for start in (10, 12, 14)]
    )


def test_negatives_leave_out_the_source_and_its_near_duplicates(corpus):
    batch = ClozePairs(corpus).batch(range(COUNT))
    for row, source in enumerate(batch.source.tolist()):
        assert set(batch.exclude[row].tolist()) - {MISSING} == {source, *corpus.near_duplicates(source).tolist()}
    assert (batch.exclude != MISSING).sum(dim=1).max() > 1


def test_short_sentences_ask_only_where_there_is_nothing_longer(corpus):
    pairs = ClozePairs(corpus, min_length=20)
    for pair in (pairs[position] for position in range(COUNT)):
        longest = max(end - start for start, end in sentence_cuts(corpus, pair.passage))
        assert len(pair.query) >= 20 or longest < 20


def test_a_keep_rate_must_be_a_probability(corpus):
    with pytest.raises(BadInput, match="keep_rate: got 1.5, expected a probability"):
        ClozePairs(corpus, keep_rate=1.5)


def test_passages_of_one_sentence_alone_are_refused(make_corpus, tmp_path):
    single = make_corpus([{"id": "1", "title": "One", "text": "It has just one sentence here."}], tmp_path)
    with pytest.raises(BadInput, match="no passage of two sentences or more; ICT needs longer passages"):
        ClozePairs(single)
