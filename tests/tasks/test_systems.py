"""Systems over a retriever and a reader of which everything is known."""

import math

import pytest
import torch
from qa_world import DrawnRetriever, FirstWords, Parrot, questions_of

from realm_train.tasks.judging import Judge
from realm_train.tasks.oracle import OraclePassages
from realm_train.tasks.systems import GuessClosedBook, ReadOracle, RetrieveAndRead


def systems(corpus):
    retriever, reader = DrawnRetriever(corpus), FirstWords(corpus)
    oracle = OraclePassages(retriever, corpus, Judge(corpus, "tokens").holds)
    return [
        RetrieveAndRead(retriever, reader),
        RetrieveAndRead(retriever, None),
        RetrieveAndRead(retriever, reader, uniform=True),
        ReadOracle(oracle, reader),
        GuessClosedBook(Parrot()),
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_batch_of_16_is_16_batches_of_one(corpus, number):
    system, questions = systems(corpus)[number], questions_of(corpus, 16)
    assert system(questions, 10) == [reply for question in questions for reply in system([question], 10)]


def test_p_is_the_softmax_over_null_and_all_that_was_retrieved(corpus):
    retriever, question = DrawnRetriever(corpus, null=1.5), questions_of(corpus, 1)[0]
    (reply,) = RetrieveAndRead(retriever, None)([question], 10)
    order, scores = retriever.ranking(question.text)
    weights = torch.tensor([1.5, *scores[:10].tolist()], dtype=torch.float64).exp()
    assert [reply.p_null, *reply.p] == pytest.approx((weights / weights.sum()).tolist(), rel=1e-5)
    assert reply.passages == tuple(order[:10].tolist()) and reply.scores == pytest.approx(scores[:10].tolist())
    assert reply.prediction is None


def test_a_reader_is_given_more_than_is_asked_for_if_it_reads_more(corpus):
    retriever, reader = DrawnRetriever(corpus), FirstWords(corpus, depth=4)
    (reply,) = RetrieveAndRead(retriever, reader)(questions_of(corpus, 1), 1)
    assert retriever.asked == [(1, 4)] and len(reply.passages) == 1
    assert reply.prediction == " ".join(corpus.passage(reply.passages[0])["text"].split(" ")[:2])


def test_words_found_alike_are_equally_likely_to_the_reader_and_have_no_p(corpus):
    reader = FirstWords(corpus)
    (reply,) = RetrieveAndRead(DrawnRetriever(corpus), reader, uniform=True)(questions_of(corpus, 1), 10)
    (given,) = reader.given
    assert given.scores.tolist() == [[0.0, 0.0, 0.0]] and given.ids.tolist() == [list(reply.passages[:3])]
    assert (reply.p, reply.p_null) == (None, None) and reply.scores[0] > reply.scores[9]


def test_a_retriever_without_a_null_passage_has_no_p_null_and_what_is_missing_is_not_there(corpus):
    (reply,) = RetrieveAndRead(DrawnRetriever(corpus, reach=2, null=-math.inf), None)(questions_of(corpus, 1), 10)
    assert reply.p_null is None and len(reply.passages) == len(reply.scores) == 2 and sum(reply.p) == pytest.approx(1)


def test_without_a_passage_that_holds_an_answer_the_oracle_says_nothing(corpus):
    held, not_held = questions_of(corpus, 2)
    with_passage, without = systems(corpus)[3]([held, not_held], 10)
    assert len(with_passage.passages) == 1 and with_passage.prediction
    assert (without.passages, without.prediction) == ((), "")
