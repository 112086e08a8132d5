"""No passage that gives the answer away is ever read, and nothing worse than missing takes its place."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_world import masked_sentences, random_index

from realm_train.batch import MISSING
from realm_train.errors import BadInput
from realm_train.index.exact import ExactIndex
from realm_train.tasks.retrieval import Retrieval, leaks

COUNT = 100


def holds(corpus, passage: int, sentence: list[int]) -> bool:
    body = corpus.body(passage).tolist()
    return any(body[at : at + len(sentence)] == sentence for at in range(len(body) - len(sentence) + 1))


def sentence_of(batch, row: int) -> list[int]:
    return batch.original_ids[row, 1 : int(batch.queries.lengths[row]) - 1].tolist()


def forbidden(corpus, batch, row: int) -> set[int]:
    """What question `row` must never read, by looking at every passage of the corpus."""
    copies = {p for p in range(len(corpus)) if holds(corpus, p, sentence_of(batch, row))}
    return copies | (set(batch.exclude[row].tolist()) - {MISSING})


def tempting(corpus, batch) -> tuple[ExactIndex, torch.Tensor]:
    """An index and questions for which the forbidden passages score higher than any other."""
    queries = torch.randn(len(batch), len(corpus), generator=torch.Generator().manual_seed(1))
    for row in range(len(batch)):
        queries[row, list(forbidden(corpus, batch, row))] += 100
    return ExactIndex(torch.eye(len(corpus))), queries


@pytest.fixture(params=["with near duplicates known", "by the sentence alone"])
def planted(request, corpus):
    """Questions from a corpus with a document told again, one quoted and one copied under another title.

    The second time the near duplicates that were found while preparing are forgotten, and the source with them.
    """
    batch = masked_sentences(corpus, query_length=200).batch(range(COUNT))
    if request.param == "by the sentence alone":
        batch = dataclasses.replace(batch, exclude=torch.full_like(batch.exclude, MISSING))
    return batch


def test_the_planted_copies_are_there(corpus):
    batch = masked_sentences(corpus, query_length=200).batch(range(COUNT))
    copies = [
        {p for p in range(len(corpus)) if holds(corpus, p, sentence_of(batch, row))} - {int(batch.source[row])}
        for row in range(COUNT)
    ]
    assert sum(bool(others) for others in copies) >= 5
    assert (batch.exclude != MISSING).sum(dim=1).max() > 1


def test_nothing_forbidden_is_read_and_no_slot_stays_empty(corpus, planted):
    index, queries = tempting(corpus, planted)
    retrieval = Retrieval(corpus, k=5, passage_length=96, body_length=96)
    retrieval.adopt(index)
    found = retrieval.candidates(queries, planted)
    assert leaks(found, planted) == 0 and found.present.all()
    for row in range(COUNT):
        assert not forbidden(corpus, planted, row) & set(found.ids[row, 1:].tolist())


def test_what_is_read_are_the_best_of_the_others(corpus, planted):
    index, queries = tempting(corpus, planted)
    retrieval = Retrieval(corpus, k=5)
    retrieval.adopt(index)
    found = retrieval.search(queries, planted, 4)
    for row in range(COUNT):
        allowed = set(range(len(corpus))) - forbidden(corpus, planted, row)
        scores = queries[row].tolist()
        best = sorted(allowed, key=scores.__getitem__, reverse=True)[:4]
        assert found.ids[row].tolist() == best
        assert found.scores[row].tolist() == queries[row, best].tolist()


def test_a_planted_leak_is_counted(corpus):
    """The counter looks at what the reader reads, by a way of its own: it must not trust the search."""
    batch = masked_sentences(corpus, query_length=200).batch(range(COUNT))
    retrieval = Retrieval(corpus, k=3, body_length=200)
    retrieval.adopt(random_index(corpus))
    innocent = retrieval.candidates(torch.zeros(COUNT, 16), batch).ids[:, 1:]
    expected = 0
    planted = innocent.clone()
    for row in range(0, COUNT, 2):
        planted[row, row % 2] = sorted(forbidden(corpus, batch, row))[-1]
        expected += 1
    assert leaks(retrieval.read(innocent), batch) == 0 and leaks(retrieval.read(planted), batch) == expected
    unaware = dataclasses.replace(batch, exclude=torch.full_like(batch.exclude, MISSING))
    own = retrieval.read(torch.stack([batch.source, innocent[:, 0]], dim=1))
    assert leaks(own, unaware) == leaks(own, batch) == COUNT


def test_adjacent_passages_that_share_the_sentence_do_not_count(make_corpus, tmp_path):
    """Overlapping windows of one text, as a user's own chunks may be, and a quotation inside other text."""
    sentences = [f"Sentence {word} tells of the river and its {word} bridge in the old town." for word in
                 ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")]  # fmt: skip
    documents = [
        {"id": f"window {at}", "title": f"Town {at}", "text": " ".join(sentences[at : at + 3])} for at in range(6)
    ]
    documents += [{"id": "quote", "title": "Press", "text": f"The mayor said that {sentences[2]} Nobody laughed."}]
    documents += [
        {"id": f"other {at}", "title": "Other", "text": f"Number {at} is of no use here. It is filler {at} indeed."}
        for at in range(12)
    ]
    corpus = make_corpus(documents, tmp_path)
    batch = masked_sentences(corpus, heldout_percent=0.0).batch(range(60))
    batch = dataclasses.replace(batch, exclude=batch.source[:, None])  # as if nobody had looked for near duplicates
    index, queries = tempting(corpus, batch)
    assert max(len(forbidden(corpus, batch, row)) for row in range(60)) >= 3
    retrieval = Retrieval(corpus, k=8, margin=4)
    retrieval.adopt(index)
    found = retrieval.candidates(queries, batch)
    assert leaks(found, batch) == 0 and found.present.all()


@pytest.mark.parametrize("margin", [0, 8, 100])
def test_nothing_is_added_back_when_too_few_remain(corpus, margin):
    batch = masked_sentences(corpus).batch(range(COUNT))
    index, queries = tempting(corpus, batch)
    k = len(corpus) + 3
    retrieval = Retrieval(corpus, k=k, margin=margin)
    retrieval.adopt(index)
    found = retrieval.candidates(queries, batch)
    assert leaks(found, batch) == 0
    for row in range(COUNT):
        allowed = set(range(len(corpus))) - forbidden(corpus, batch, row)
        ids, present = found.ids[row], found.present[row]
        assert set(ids[present][1:].tolist()) == allowed and int(present.sum()) == 1 + len(allowed)
        assert (ids[~present] == MISSING).all() and not present[1 + len(allowed) :].any()


def test_too_small_a_margin_leaves_slots_empty_rather_than_leaks(corpus):
    batch = masked_sentences(corpus, query_length=200).batch(range(COUNT))
    unaware = dataclasses.replace(batch, exclude=torch.full_like(batch.exclude, MISSING))
    index, queries = tempting(corpus, unaware)
    retrieval = Retrieval(corpus, k=3, margin=0)
    retrieval.adopt(index)
    found = retrieval.candidates(queries, unaware)
    missing = torch.tensor([min(2, len(forbidden(corpus, unaware, row))) for row in range(COUNT)])
    assert leaks(found, batch) == 0 and torch.equal((~found.present).sum(dim=1), missing)


def test_candidates_are_read_once_each_with_the_null_passage_first(corpus):
    retrieval = Retrieval(corpus, k=4, passage_length=40, body_length=30)
    ids = torch.tensor([[7, 3, 9], [3, MISSING, 7], [MISSING, MISSING, MISSING]])
    found = retrieval.read(ids)
    assert found.ids.tolist() == [[MISSING, 7, 3, 9], [MISSING, 3, MISSING, 7], [MISSING] * 4]
    assert found.present.tolist() == [[True] * 4, [True, True, False, True], [True, False, False, False]]
    assert len(found.passages) == len(found.bodies) == 4 and (found.rows[:, 0] == 0).all()
    for row, slot in found.present.nonzero().tolist():
        passage, place = int(found.ids[row, slot]), int(found.rows[row, slot])
        body = [] if passage == MISSING else corpus.body(passage)[:30].tolist()
        assert found.bodies[place, : found.body_lengths[place]].tolist() == body
        length = int(found.passages.lengths[place])
        alone = corpus.sequences(ids.new_tensor([passage]).numpy(), 40)
        assert (
            found.passages.ids[place, :length].equal(alone.ids[0]) and found.passages.second[place] == alone.second[0]
        )


def test_one_candidate_is_the_null_passage_alone_and_needs_no_index(corpus):
    batch = masked_sentences(corpus).batch(range(3))
    found = Retrieval(corpus, k=1).candidates(torch.zeros(3, 16), batch)
    assert found.ids.tolist() == [[MISSING]] * 3 and found.present.all() and len(found.passages) == 1
    assert found.body_lengths.tolist() == [0] and leaks(found, batch) == 0


def test_autocast_changes_no_candidate(corpus, retrieval):
    batch = masked_sentences(corpus).batch(range(30))
    queries = torch.randn(30, 16, generator=torch.Generator().manual_seed(3))
    plain = retrieval.search(queries, batch, 3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = retrieval.search(queries, batch, 3)
    assert torch.equal(plain.ids, mixed.ids) and torch.equal(plain.scores, mixed.scores)


def test_wrong_settings_are_named(corpus):
    with pytest.raises(BadInput, match=r"retrieval.k: got 0, expected at least 1 \(the null passage\)"):
        Retrieval(corpus, k=0)
    retrieval = Retrieval(corpus)
    with pytest.raises(BadInput, match=f"index: got 3 passages, but the corpus .* has {len(corpus)}"):
        retrieval.adopt(ExactIndex(torch.zeros(3, 16)))
    with pytest.raises(BadInput, match="no index was adopted"):
        retrieval.candidates(torch.zeros(2, 16), masked_sentences(corpus).batch(range(2)))
