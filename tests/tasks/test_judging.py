"""What a reply is worth, and how it is told."""

import pytest
from qa_world import questions_of

from realm_train.data.questions import Question
from realm_train.tasks.judging import Judge
from realm_train.tasks.systems import Reply


@pytest.fixture
def judge(corpus):
    return Judge(corpus, "tokens")


def test_hits_are_the_passages_whose_text_holds_an_answer_not_their_titles(judge, corpus):
    question = questions_of(corpus, 1)[0]
    judged = judge(question, Reply("x", (0, 1, 2), (3.0, 2.0, 1.0)))
    assert judged.hits[0] and not judged.exact and judged.f1 == 0.0
    title = corpus.passage(0)["title"]
    assert judge.holds(f"So said {title}.", Question(text="?", answers=(title,)))


def test_a_question_with_patterns_is_matched_by_them_whatever_the_matching(judge):
    question = Question(text="when", answers=(r"19[12]\d",), regex=True)
    assert judge.holds("born in 1923 in Ulm", question) and not judge.holds("born in 1943", question)
    judged = judge(question, Reply("1914 or so", (), ()))
    assert judged.exact and judged.f1 == 1.0, "F1 is the exact match"
    assert not judge(question, Reply("in 1914", (), ())).exact, "anchored, as ORQA scores it"


def test_a_line_says_all_and_shows_some(judge, corpus):
    question = questions_of(corpus, 1)[0]
    reply = Reply(question.answers[0].upper(), (0, 1, 2), (3.0, 2.0, 1 / 3), p=(0.5, 0.25, 0.05), p_null=0.2)
    line = judge.line(judge(question, reply), shown=2)
    assert line["em"] is True and line["f1"] == 1.0 and line["has_answer"] is True and line["p_null"] == 0.2
    assert (line["id"], line["question"], line["answers"]) == ("q0", question.text, list(question.answers))
    assert [one["p"] for one in line["passages"]] == [0.5, 0.25]
    assert (
        line["passages"][0] | {"score": 3.0, "has_answer": True, "title": corpus.passage(0)["title"]}
        == line["passages"][0]
    )


def test_what_only_retrieves_is_not_scored_for_answers(judge, corpus):
    line = judge.line(judge(questions_of(corpus, 1)[0], Reply(None, (1,), (1.0,))), shown=5)
    assert (line["prediction"], line["em"], line["f1"], line["passages"][0]["p"]) == (None, None, None, None)
