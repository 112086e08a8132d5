"""The oracle's passage against looking at every passage."""

import math

import pytest
from qa_world import DrawnRetriever, questions_of

from realm_train.batch import MISSING
from realm_train.data.questions import Question
from realm_train.tasks.judging import Judge
from realm_train.tasks.oracle import OraclePassages


def by_hand(corpus, holds, retriever, question):
    ranked = retriever.ranking(question.text)[0].tolist()
    return next((one for one in ranked if holds(corpus.passage(one)["text"], question)), MISSING)


@pytest.mark.parametrize("depth", [1, 5, 1000])
@pytest.mark.parametrize("matching", ["tokens", "substring"])
def test_it_is_the_best_ranked_passage_of_all_that_hold_an_answer(corpus, matching, depth):
    retriever, judge = DrawnRetriever(corpus), Judge(corpus, matching)
    questions = [
        *questions_of(corpus, 12),
        Question(text="where", answers=("in", "THE")),
        Question(text="when", answers=(r"1[89]\d\d",), regex=True),
        Question(text="which", answers=(",",)),
        Question(text="why", answers=()),
    ]
    expected = [by_hand(corpus, judge.holds, retriever, question) for question in questions]
    found = OraclePassages(retriever, corpus, judge.holds, depth=depth)(questions)
    assert found.ids[:, 0].tolist() == expected
    assert MISSING in expected and len(set(expected)) > 5
    assert found.scores[:, 0].tolist() == [-math.inf if one == MISSING else 0.0 for one in expected]
    assert found.null.tolist() == [-math.inf] * len(questions), "there is nothing to choose from"


def test_the_holders_are_all_passages_that_hold_an_answer_whatever_case_and_accents(make_corpus, tmp_path):
    texts = ["Beyonce\u0301 sang.", "BEYONC\u00c9 and a STRASSE.", "The beyond.", "Ein Stra\u00dfenfest, ΣΊΣΥΦΟΣ."]
    documents = [{"id": str(n), "title": f"t{n}", "text": text} for n, text in enumerate(texts)]
    corpus = make_corpus(documents, tmp_path)
    judge = Judge(corpus, "tokens")
    asked = [("beyonc\u00e9",), ("Stra\u00dfe", "beyond"), ("Σίσυφος",), ("...",)]
    questions = [Question(text="?", answers=answers) for answers in asked]
    texts = [corpus.passage(number)["text"] for number in range(len(corpus))]
    expected = [[n for n, text in enumerate(texts) if judge.holds(text, question)] for question in questions]
    assert OraclePassages(DrawnRetriever(corpus), corpus, judge.holds).holders(questions) == expected
    assert expected[:2] == [[0, 1], [2]] and expected[3] == []


def test_where_the_search_does_not_reach_the_holders_the_first_one_is_taken(corpus):
    judge, short_sighted = Judge(corpus, "tokens"), DrawnRetriever(corpus, reach=1)
    question = next(
        one
        for one in questions_of(corpus, 12)[::2]
        if by_hand(corpus, judge.holds, short_sighted, one) != short_sighted.ranking(one.text)[0][0]
    )
    oracle = OraclePassages(short_sighted, corpus, judge.holds, depth=1)
    assert oracle([question]).ids.tolist() == [[oracle.holders([question])[0][0]]]


def test_of_a_corpus_that_is_too_large_only_the_best_ranked_passages_are_searched(corpus):
    judge, retriever, questions = Judge(corpus, "tokens"), DrawnRetriever(corpus), questions_of(corpus, 12)
    near = OraclePassages(retriever, corpus, judge.holds, depth=10, everywhere=False)(questions).ids[:, 0].tolist()
    for question, passage in zip(questions, near, strict=True):
        best = by_hand(corpus, judge.holds, retriever, question)
        assert passage == (best if best in retriever.ranking(question.text)[0][:10] else MISSING)
    assert any(one != MISSING for one in near) and any(
        one == MISSING != by_hand(corpus, judge.holds, retriever, question)
        for one, question in zip(near, questions, strict=True)
    )
