"""The oracle against a search of every passage."""

from __future__ import annotations

import numpy as np

from realm_train.batch import MISSING
from realm_train.data.masked import MaskedSentences, ReadingSentences
from realm_train.data.masking import SalientMasking
from realm_train.data.oracle import Oracle, _run_keys


def holders(corpus, answer: np.ndarray) -> set[int]:
    """Passages with a salient span of just these pieces, by looking at each."""
    return {
        passage
        for passage in range(corpus.count)
        for start, end in corpus.spans(passage)[:, 3:5].tolist()
        if np.array_equal(corpus.body(passage)[start:end], answer)
    }


def test_finds_a_passage_exactly_where_one_has_the_span(spanned):
    oracle = Oracle(spanned)
    sentences = MaskedSentences(spanned, SalientMasking(), oracle=oracle, heldout_percent=0.0)
    found = 0
    for position in range(60):
        example = sentences[position]
        allowed = holders(spanned, example.masked.answer()) - set(example.exclude.tolist())
        assert (example.helpful in allowed) if allowed else example.helpful == MISSING
        found += example.helpful != MISSING
    assert 0 < found < 60


def test_prefers_the_passage_that_shares_the_rarest_words(make_corpus, tmp_path):
    from data_prep.spans import prepare_spans
    from data_prep.taggers import DateTagger

    texts = {
        "a": "Zebras were counted near the granite quarry in 1897 by two surveyors.",
        "b": "The treaty of the nations was signed in 1897 in a hall of the town.",
        "c": "Granite from the quarry was sold with zebras in 1897 to surveyors of the town.",
    }
    corpus = make_corpus([{"id": k, "title": k, "text": t} for k, t in texts.items()], tmp_path)
    prepare_spans(corpus=corpus.folder, tagger=DateTagger(), workers=1)
    source = corpus.body(0)
    start, end = corpus.spans(0)[0, 3:5]
    picked = Oracle(corpus).passage(source[start:end], source, np.array([0]), np.random.default_rng(0))
    assert picked == 2
    assert Oracle(corpus).passage(source[start:end], source, np.arange(3), np.random.default_rng(0)) == MISSING


def test_the_oracle_changes_no_mask(spanned):
    with_oracle = MaskedSentences(spanned, SalientMasking(), oracle=Oracle(spanned), heldout_percent=0.0)
    plain = MaskedSentences(spanned, SalientMasking(), heldout_percent=0.0)
    for position in range(30):
        assert np.array_equal(with_oracle[position].masked.tokens, plain[position].masked.tokens)
        assert plain[position].helpful == MISSING


def test_reading_batches_hold_the_helpful_bodies(spanned):
    sentences = MaskedSentences(spanned, SalientMasking(), oracle=Oracle(spanned), heldout_percent=0.0)
    for batch in ReadingSentences(sentences, body_length=96).micro_batches(range(20), 8):
        for row, passage in enumerate(batch.masked.helpful.tolist()):
            body = np.zeros(0) if passage == MISSING else spanned.body(passage)
            assert np.array_equal(batch.bodies[row, : int(batch.body_lengths[row])].numpy(), body)


def test_keys_differ_where_runs_do():
    rng = np.random.default_rng(0)
    runs = np.unique(rng.integers(0, 40, size=(20_000, 3)), axis=0)
    assert len(np.unique(_run_keys(runs))) == len(runs)
    assert np.array_equal(_run_keys(runs)[5:6], _run_keys(runs[5:6]))
