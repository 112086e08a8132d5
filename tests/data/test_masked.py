"""Masked sentences: true to the corpus, each passage once an epoch, nothing masked without a target."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from spanned import same_batches

from realm_train.batch import MISSING
from realm_train.data.masked import MaskedSentences
from realm_train.data.masking import SalientMasking, SpanMasking, TokenMasking
from realm_train.errors import BadInput

COUNT = 120
MASKINGS = {"salient": SalientMasking(), "span": SpanMasking(), "token": TokenMasking()}


@pytest.fixture(params=MASKINGS)
def sentences(request, spanned) -> MaskedSentences:
    return MaskedSentences(spanned, MASKINGS[request.param])


def test_restoring_the_targets_gives_a_sentence_of_the_source(sentences):
    corpus, batch = sentences.corpus, sentences.batch(range(COUNT))
    assert batch.positions.shape == batch.targets.shape == batch.valid.shape == batch.spans.shape
    for row in range(COUNT):
        length, valid = int(batch.queries.lengths[row]), batch.valid[row]
        ids, original = batch.queries.ids[row].clone(), batch.original_ids[row]
        positions = batch.positions[row, valid]
        assert valid.any() and sorted(set(positions.tolist())) == positions.tolist()
        assert ((ids == corpus.mask_id).nonzero()[:, 0] == positions).all()  # each mask has a target, and no other
        assert (batch.positions[row, ~valid] == 0).all()
        ids[positions] = batch.targets[row, valid]
        assert ids.equal(original) and batch.queries.second[row] == length
        assert ids[0] == corpus.cls_id and ids[length - 1] == corpus.sep_id and (ids[length:] == corpus.pad_id).all()
        body, passage = corpus.body(int(batch.source[row])), int(batch.source[row])
        cuts = [body[start:end].tolist() for start, end in corpus.sentences(passage)[:, 2:4].tolist()]
        sentence = ids[1 : length - 1].tolist()
        assert sentence in cuts or (length == 64 and any(stands_in(cut, sentence) for cut in cuts))


def stands_in(tokens: list[int], run: list[int]) -> bool:
    return any(tokens[start : start + len(run)] == run for start in range(len(tokens)))


def test_salient_masks_are_salient_spans(spanned):
    sentences = MaskedSentences(spanned, SalientMasking(all_occurrences=False))
    for example in (sentences[position] for position in range(COUNT)):
        spans = spanned.spans(example.passage)[:, 3:5].tolist()
        texts = [spanned.body(example.passage)[start:end].tolist() for start, end in spans]
        assert example.masked.targets.tolist() in texts


def test_positions_do_not_depend_on_what_was_asked_before(sentences):
    ordered = [sentences.batch([position]) for position in range(30)]
    fresh = MaskedSentences(sentences.corpus, sentences.masking)
    assert same_batches([fresh.batch([position]) for position in reversed(range(30))][::-1], ordered)
    copy = pickle.loads(pickle.dumps(sentences))
    assert same_batches([copy.batch([position]) for position in range(30)], ordered)
    other = MaskedSentences(sentences.corpus, sentences.masking, seed=1)
    assert not same_batches([other.batch([position]) for position in range(30)], ordered)


def test_every_maskable_passage_comes_once_an_epoch(spanned):
    sentences = MaskedSentences(spanned, TokenMasking(), min_length=1)
    passages = sentences.order.items
    for epoch in range(2):
        start = epoch * len(passages)
        drawn = [sentences[position].passage for position in range(start, start + len(passages))]
        assert sorted(drawn) == passages.tolist()


def test_epochs_mask_a_passage_anew(spanned):
    sentences = MaskedSentences(spanned, TokenMasking())
    size = len(sentences.order.items)
    first, second = (
        {example.passage: example.masked.positions.tolist() for example in map(sentences.__getitem__, positions)}
        for positions in (range(size), range(size, 2 * size))
    )
    assert sum(first[passage] != second[passage] for passage in first) > size / 2


@pytest.mark.parametrize("percent", [0.0, 15.0, 40.0])
def test_training_and_held_out_share_no_document_and_leave_none_out(spanned, percent):
    train, held = (
        set(MaskedSentences(spanned, TokenMasking(), heldout_percent=percent, heldout=heldout).order.items.tolist())
        if percent or not heldout
        else set()
        for heldout in (False, True)
    )
    assert train | held == set(range(len(spanned))) and not train & held
    documents = [{int(spanned.documents[passage]) for passage in part} for part in (train, held)]
    assert not documents[0] & documents[1] and bool(held) == (percent > 0)


def test_nothing_held_out_is_a_clear_error(spanned):
    with pytest.raises(BadInput, match="no held-out passage with something to mask; use a larger corpus"):
        MaskedSentences(spanned, TokenMasking(), heldout_percent=0.0, heldout=True)


def test_no_sentence_long_enough_is_a_clear_error(spanned):
    with pytest.raises(BadInput, match="no sentence of 1000 pieces or more can be masked"):
        MaskedSentences(spanned, TokenMasking(), min_length=1000)[0]


@pytest.mark.parametrize("name", MASKINGS)
def test_long_sentences_are_cut_around_a_mask(spanned, name):
    sentences = MaskedSentences(spanned, MASKINGS[name], query_length=14)
    batch = sentences.batch(range(COUNT))
    assert batch.queries.lengths.max() == 14 and batch.valid.any(dim=1).all()
    for row in range(COUNT):
        assert (batch.positions[row, batch.valid[row]] < batch.queries.lengths[row] - 1).all()


def test_short_sentences_are_left_alone(spanned):
    lengths = MaskedSentences(spanned, TokenMasking(), min_length=25).batch(range(COUNT)).queries.lengths
    assert lengths.min() >= 27


def test_random_masks_need_no_spans(corpus):
    assert not (corpus.folder / "spans").exists()
    for masking in (TokenMasking(), SpanMasking()):
        assert MaskedSentences(corpus, masking).batch(range(8)).valid.any(dim=1).all()
    with pytest.raises(BadInput, match="make it with python -m data_prep.spans"):
        MaskedSentences(corpus, SalientMasking())


def test_the_source_and_its_near_duplicates_are_excluded(sentences):
    batch = sentences.batch(range(COUNT))
    for row, source in enumerate(batch.source.tolist()):
        excluded = set(batch.exclude[row].tolist()) - {MISSING}
        assert excluded == {source, *sentences.corpus.near_duplicates(source).tolist()}
    assert (batch.exclude != MISSING).sum(dim=1).max() > 1 or sentences.masking.needs_spans


@pytest.mark.parametrize("size", [1, 3, 8])
def test_micro_batches_know_the_masks_of_their_step(sentences, size):
    whole = sentences.batch(range(16))
    parts = sentences.micro_batches(range(16), size)
    assert whole.step_masks == int(whole.valid.sum()) == sum(int(part.valid.sum()) for part in parts)
    assert {part.step_masks for part in parts} == {whole.step_masks}
    assert np.concatenate([part.source for part in parts]).tolist() == whole.source.tolist()
    targets = [row[valid].tolist() for part in parts for row, valid in zip(part.targets, part.valid, strict=True)]
    assert targets == [row[valid].tolist() for row, valid in zip(whole.targets, whole.valid, strict=True)]
