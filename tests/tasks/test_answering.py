"""Asked questions against brute force: every inner product, every span of every passage read."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from qa_steps import LENGTH, QUERY, batch_of, open_qa, row_of, spans_of, task_over

from realm_train.batch import MISSING
from realm_train.data.questions import Question
from realm_train.tasks.answering import DenseRetriever, Retrieved, Retriever, SpanAnswerer
from realm_train.tasks.encode import evaluating

TEXTS = [f"{word} is what, and {more}?" for word in ("It", "Paris", "A long name") for more in ("why", "where was it")]


@pytest.fixture(scope="module")
def task(corpus):
    return task_over(corpus)


def retriever(task, **settings) -> DenseRetriever:
    corpus = task.retrieval.corpus
    return DenseRetriever(task.towers, task.retrieval.index, corpus, query_length=QUERY, **settings)


def answerer(task, depth: int = 3) -> SpanAnswerer:
    corpus = task.retrieval.corpus
    return SpanAnswerer(task.qa, corpus, depth=depth, query_length=QUERY, body_length=LENGTH)


def alone(task, text: str):
    """One question, and its vector, without any other beside it."""
    asked = row_of(batch_of(task.retrieval.corpus, [Question(text=text, answers=())]), 0)
    with evaluating(task.towers):
        return asked, task.towers.query(asked)[0]


@pytest.mark.parametrize("null_bias", [None, -2.5])
def test_the_retriever_ranks_by_inner_products_times_the_scale(task, null_bias):
    asked = retriever(task, null_bias=null_bias, name="mine")
    found = asked(TEXTS, 7)
    assert isinstance(asked, Retriever) and asked.name == "mine" and asked.recall == 1.0
    with evaluating(task.towers):
        null = task.towers.passage(task.retrieval.corpus.sequences(np.array([MISSING]), LENGTH))[0]
    for row, text in enumerate(TEXTS):
        _, query = alone(task, text)
        f = task.retrieval.index.vectors @ query * 0.3
        best = f.topk(7)
        assert found.ids[row].tolist() == best.indices.tolist()
        torch.testing.assert_close(found.scores[row], best.values, rtol=1e-5, atol=1e-5)
        first = null_bias if null_bias is not None else float(null @ query) * 0.3
        assert found.null[row].item() == pytest.approx(first, abs=1e-5)
        p = torch.cat([torch.tensor([first]), best.values]).softmax(0)
        torch.testing.assert_close(found.log_prior()[row].exp(), p, rtol=1e-4, atol=1e-6)
    assert task.towers.training  # as it was


def test_more_passages_than_there_are_leave_missing_places(task):
    found = retriever(task)(TEXTS[:2], task.retrieval.index.count + 2)
    assert found.ids[:, -2:].tolist() == [[MISSING] * 2] * 2 and found.scores[:, -2:].isneginf().all()
    torch.testing.assert_close(found.log_prior().exp().sum(dim=1), torch.ones(2))


def test_a_retriever_without_a_null_passage_shares_out_all_among_what_it_found():
    found = Retrieved(torch.tensor([[4, 2]]), torch.tensor([[1.0, 0.0]]), torch.tensor([-torch.inf]))
    p = found.log_prior().exp()[0].tolist()
    assert p[0] == 0 and p[1:] == pytest.approx([math.e / (1 + math.e), 1 / (1 + math.e)], abs=1e-6)


def test_the_best_span_of_each_passage_is_that_of_all_its_spans_and_p_is_its_share_of_all_read(task, corpus):
    found = retriever(task)(TEXTS, 5)
    with torch.no_grad(), evaluating(task.qa):
        given = answerer(task)(TEXTS, found)
        for row, text in enumerate(TEXTS):
            asked, _ = alone(task, text)
            scores = {
                (passage, *span): float(score) + float(found.scores[row, place])
                for place, passage in enumerate(found.ids[row, :3].tolist())
                for span, score in spans_of(task, asked, passage).items()
            }
            total = math.log(sum(math.exp(score) for score in scores.values()))
            spans = given[row]
            assert [span.p for span in spans] == sorted((span.p for span in spans), reverse=True)
            assert {span.passage for span in spans} == set(found.ids[row, :3].tolist()) and len(spans) == 3
            assert sum(span.p for span in spans) <= 1
            for span in spans:
                best = max((one for one in scores if one[0] == span.passage), key=scores.__getitem__)
                assert span.p == pytest.approx(math.exp(scores[best] - total), rel=1e-3)
                told = corpus.passage(span.passage)["text"]
                assert span.text == told[span.start : span.end] and span.text
                pieces = corpus.tokenizer.encode(told, add_special_tokens=False).offsets
                assert (span.start, span.end) == (pieces[best[1]][0], pieces[best[2]][1])
                said = corpus.body(span.passage)[best[1] : best[2] + 1].tolist()
                if corpus.word_starts[said[0]]:
                    assert corpus.tokenizer.encode(span.text, add_special_tokens=False).ids == said


def test_the_pieces_of_every_passage_are_those_of_its_text(corpus):
    """Or characters could not be told from pieces."""
    for passage in range(len(corpus)):
        text = corpus.passage(passage)["text"]
        assert corpus.tokenizer.encode(text, add_special_tokens=False).ids == corpus.body(passage).tolist()


def test_sixteen_questions_at_once_are_sixteen_times_one(task):
    texts = [f"{text} {number}" for number in range(3) for text in TEXTS][:16]
    found = retriever(task)(texts, 4)
    together = answerer(task)(texts, found)
    for row, text in enumerate(texts):
        once = retriever(task)([text], 4)
        assert torch.equal(once.ids[0], found.ids[row])
        (apart,) = answerer(task)([text], once)
        assert [dataclasses.replace(span, p=0.0) for span in apart] == [
            dataclasses.replace(span, p=0.0) for span in together[row]
        ]
        assert [span.p for span in apart] == pytest.approx([span.p for span in together[row]], abs=1e-5)


def test_a_passage_more_or_less_likely_moves_its_spans(task):
    """f(x,z) is part of a span's score."""
    found = retriever(task)(TEXTS[:1], 3)
    scores = found.scores.clone()
    scores[0, 2] += 50.0
    (spans,) = answerer(task)(TEXTS[:1], dataclasses.replace(found, scores=scores))
    assert spans[0].passage == int(found.ids[0, 2])
    shares = {span.passage: span.p for span in spans}
    assert all(shares.get(passage, 0.0) < 1e-9 for passage in found.ids[0, :2].tolist())


def test_nothing_retrieved_is_nothing_answered(task):
    ids = torch.full((2, 3), MISSING)
    ids[1, 0] = 5
    scores = torch.zeros(2, 3).masked_fill(ids == MISSING, -torch.inf)
    found = Retrieved(ids, scores, torch.zeros(2))
    given = answerer(task)(TEXTS[:2], found)
    assert given[0] == [] and [span.passage for span in given[1]] == [5]
    assert answerer(task)(TEXTS[:1], Retrieved(ids[:1], scores[:1], torch.zeros(1))) == [[]]


def test_it_leaves_the_model_as_it_was(task):
    qa = open_qa(task.retrieval.corpus).train()
    before = {name: value.clone() for name, value in qa.state_dict().items()}
    SpanAnswerer(qa, task.retrieval.corpus, depth=2, query_length=QUERY, body_length=LENGTH)(
        TEXTS[:2], retriever(task)(TEXTS[:2], 2)
    )
    assert qa.training and all(torch.equal(before[name], value) for name, value in qa.state_dict().items())
