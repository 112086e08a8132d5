"""BM25 against its formula, word by word."""

import math
import re
from collections import Counter

import pytest
import torch

from realm_train.batch import MISSING
from realm_train.tasks.bm25 import Bm25Retriever


@pytest.fixture(scope="module")
def bm25(corpus):
    pytest.importorskip("bm25s")
    return Bm25Retriever(corpus)


def stop_words():
    from bm25s.stopwords import STOPWORDS_EN

    return set(STOPWORDS_EN)


def words(text):
    return [word for word in re.findall(r"\b\w\w+\b", text.lower()) if word not in stop_words()]


def by_hand(corpus, question, k1=1.5, b=0.75):
    """Lucene's score of every passage."""
    texts = [corpus.passage(number) for number in range(len(corpus))]
    bags = [Counter(words(f"{one['title']} {one['text']}")) for one in texts]
    mean = sum(bag.total() for bag in bags) / len(bags)
    scores = [0.0] * len(bags)
    for word in words(question):
        holding = sum(word in bag for bag in bags)
        weight = math.log(1 + (len(bags) - holding + 0.5) / (holding + 0.5))
        for number, bag in enumerate(bags):
            scores[number] += weight * bag[word] / (bag[word] + k1 * (1 - b + b * bag.total() / mean))
    return scores


def test_scores_are_those_of_the_formula_over_title_and_text(bm25, corpus):
    question = f"What is said of {corpus.passage(7)['title']} and of the history of war in Europe?"
    expected = by_hand(corpus, question)
    found = bm25([question], len(corpus))
    places = {passage: score for passage, score in zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True)}
    places.pop(MISSING, None)
    assert set(places) == {number for number, score in enumerate(expected) if score > 0}, "no word, no passage"
    for passage, score in places.items():
        assert score == pytest.approx(expected[passage], rel=1e-4)
    finite = found.scores[0][found.scores[0].isfinite()]
    assert (finite.diff() <= 0).all() and len(finite) > 5


def test_fewer_passages_are_the_first_of_more_and_a_batch_is_its_questions(bm25, corpus):
    questions = [" ".join(corpus.passage(number)["text"].split()[:6]) for number in range(0, 32, 2)]
    every = bm25(questions, 40)
    for row, question in enumerate(questions):
        alone = bm25([question], 5)
        assert alone.ids[0].tolist() == every.ids[row, :5].tolist()
        assert torch.equal(alone.scores[0], every.scores[row, :5])
    assert every.null.tolist() == [-math.inf] * len(questions)


def test_equal_scores_are_ordered_by_id(make_corpus, tmp_path):
    pytest.importorskip("bm25s")
    documents = [{"id": str(n), "title": f"title{n}", "text": f"Zebras eat grass {n} times."} for n in range(6)]
    corpus = make_corpus([*documents, {"id": "x", "title": "x", "text": "Nothing of it here."}], tmp_path)
    found = Bm25Retriever(corpus)(["zebras"], 4)
    assert found.ids.tolist() == [[0, 1, 2, 3]] and found.scores[0].unique().numel() == 1


@pytest.mark.parametrize("question", ["", "the of and", "xyzzyqwerty"])
def test_without_a_known_word_nothing_is_found(bm25, question):
    found = bm25([question], 3)
    assert found.ids.tolist() == [[MISSING] * 3] and found.scores.isneginf().all()
