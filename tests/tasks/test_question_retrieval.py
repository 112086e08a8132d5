"""What is found for questions, and where it holds their answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from qa_steps import batch_of, places
from small_world import random_index

from realm_train.batch import MISSING
from realm_train.data.questions import Question
from realm_train.errors import BadInput
from realm_train.index.exact import ExactIndex
from realm_train.tasks.question_retrieval import Beam, QuestionRetrieval


@pytest.fixture
def retrieval(corpus) -> QuestionRetrieval:
    retrieval = QuestionRetrieval(corpus, beam=len(corpus), read=2, body_length=96)
    retrieval.adopt(random_index(corpus))
    return retrieval


def words_of(corpus, count: int) -> list[str]:
    """Frequent and rare words of the corpus."""
    words = sorted({word for passage in range(5) for word in corpus.passage(passage)["text"].split() if word.isalnum()})
    return words[:: max(1, len(words) // count)]


def test_every_answer_in_every_passage_is_found_where_it_stands(corpus, retrieval):
    words = words_of(corpus, 12)
    questions = [Question(text="what?", answers=(first, last)) for first, last in zip(words, words[1:], strict=False)]
    batch = batch_of(corpus, questions)
    queries = torch.randn(len(questions), 16, generator=torch.Generator().manual_seed(0))
    beam = retrieval.beam(queries, batch)
    assert [sorted(row) for row in beam.ids.tolist()] == [list(range(len(corpus)))] * len(questions)
    torch.testing.assert_close(beam.ids, (queries @ retrieval.index.vectors.T).argsort(dim=1, descending=True))
    for row, question in enumerate(questions):
        expected = {
            (place, *span)
            for place, passage in enumerate(beam.ids[row].tolist())
            for span in places(corpus, passage, question.answers)
        }
        assert {tuple(span) for span in beam.spans[row].tolist()} == expected and len(beam.spans[row]) == len(expected)
        holding = [bool(places(corpus, passage, question.answers)) for passage in beam.ids[row].tolist()]
        assert beam.holds()[row].tolist() == holding and sum(holding) > 0


def test_patterns_are_found_as_what_they_match_in_these_passages(corpus, retrieval):
    question = Question(text="when?", answers=(r"\b1[89]\d\d\b",), regex=True)
    batch, ids = batch_of(corpus, [question]), torch.arange(len(corpus))[None]
    (spans,) = retrieval.answers(ids, batch)
    said = {corpus.decode(corpus.body(place)[first : last + 1].tolist()) for place, first, last in spans.tolist()}
    assert said and all(len(year) == 4 and year[:2] in ("18", "19") and year.isdigit() for year in said)
    held = Beam(ids=ids, spans=[spans]).holds()[0].tolist()
    bodies = [[corpus.decode([piece]) for piece in corpus.body(passage).tolist()] for passage in range(len(corpus))]
    assert held == [any(piece in said for piece in body) for body in bodies]


def test_what_is_missing_holds_nothing(corpus, retrieval):
    word = words_of(corpus, 12)[6]
    batch = batch_of(corpus, [Question(text="what?", answers=(word,))] * 2)
    ids = torch.tensor([[MISSING, 0, 1, 2, 3, 4], [MISSING] * 6])
    spans = retrieval.answers(ids, batch)
    assert len(spans[0]) and 0 not in spans[0][:, 0] and spans[1].shape == (0, 3)
    for regex in (".", word):
        pattern = batch_of(corpus, [Question(text="what?", answers=(regex,), regex=True)])
        assert not len(retrieval.answers(ids[1:], pattern)[0])


def test_a_question_without_answers_is_held_by_nothing(corpus, retrieval):
    batch = batch_of(corpus, [Question(text="what?", answers=())])
    assert not Beam(ids=torch.arange(5)[None], spans=retrieval.answers(torch.arange(5)[None], batch)).holds().any()


def test_a_beam_larger_than_the_corpus_ends_with_missing_places(corpus):
    retrieval = QuestionRetrieval(corpus, beam=len(corpus) + 3, read=2, body_length=96)
    retrieval.adopt(random_index(corpus))
    ids = retrieval.search(torch.randn(1, 16), len(corpus) + 3).ids
    assert ids.device.type == "cpu" and ids[0, -3:].tolist() == [MISSING] * 3


def test_an_index_of_another_corpus_and_more_to_read_than_was_found_are_refused(corpus):
    retrieval = QuestionRetrieval(corpus, beam=4, read=4, body_length=96)
    with pytest.raises(BadInput, match=f"got {len(corpus) + 1} passages, but the corpus .* has {len(corpus)}"):
        retrieval.adopt(ExactIndex(np.zeros((len(corpus) + 1, 16), dtype=np.float32)))
    for read in (0, 5):
        with pytest.raises(BadInput, match=f"open_qa.read: got {read} of a beam of 4"):
            QuestionRetrieval(corpus, beam=4, read=read, body_length=96)
