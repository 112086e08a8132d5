"""Near duplicates of training questions against comparing every pair, and the parts of Lewis et al. (2020)."""

import random

import pytest

from realm_train.errors import BadInput
from realm_train.evaluation.question_overlap import SeenQuestions, jaccard, words


def asked(rng: random.Random) -> str:
    return " ".join(rng.choice("abcdefghijklmnopqrst") * 2 for _ in range(rng.randint(1, 9)))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75, 0.8, 1.0])
def test_nothing_that_is_similar_is_missed(threshold):
    rng = random.Random(7)
    train, test = ([asked(rng) for _ in range(80)] for _ in range(2))
    seen = SeenQuestions(train, [], threshold=threshold)
    found = 0
    for question in test:
        every = [jaccard(words(question), words(one)) for one in train]
        overlap = seen.overlap(question, [])
        if max(every) >= threshold:
            found += 1
            assert overlap.similarity == max(every) and overlap.question == every.index(max(every))
        else:
            assert overlap.question is None and overlap.part == "no overlap"
    assert found, "some are similar"


def test_a_question_that_is_equal_once_normalised_is_one_that_was_seen():
    seen = SeenQuestions(["Who wrote the Iliad?", "What is the capital of France?"], ["Homer", "Paris"])
    overlap = seen.overlap("who wrote Iliad", ["Homeros"])
    assert (overlap.question, overlap.similarity, overlap.answer) == (0, 1.0, False)
    assert overlap.part == "question overlap"


def test_the_parts_are_question_then_answer_then_none():
    seen = SeenQuestions(["what is the capital of france"], ["Paris", "the Seine"])
    assert seen.overlap("in which city is the Eiffel Tower", ["Paris, France", "paris"]).part == "answer overlap only"
    assert seen.overlap("through which city flows it", ["Seine"]).part == "answer overlap only", "articles do not count"
    assert seen.overlap("who discovered polonium", ["Marie Curie"]).part == "no overlap"
    assert seen.overlap("what is the capital of france", ["Lyon"]).part == "question overlap"


def test_what_has_no_word_left_is_like_nothing():
    seen = SeenQuestions(["the", "?", ""], ["", "the"])
    assert seen.overlap("the", ["a", ""]).part == "no overlap"


@pytest.mark.parametrize("threshold", [0.0, 1.2])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(BadInput, match="threshold"):
        SeenQuestions([], [], threshold=threshold)
