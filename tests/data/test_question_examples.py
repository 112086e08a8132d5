"""Questions as sequences, and the order in which training asks them."""

import pytest

from realm_train.data.question_examples import QuestionExamples, question_sequences
from realm_train.data.questions import Question
from realm_train.errors import BadInput

QUESTIONS = [
    Question(text=f"who wrote {'very ' * number}long book {number}?", answers=(f"writer {number}",), regex=number == 2)
    for number in range(5)
]


def examples(corpus, **settings):
    return QuestionExamples(QUESTIONS, corpus, **{"query_length": 12, "seed": 3} | settings)


def test_a_question_is_its_pieces_between_the_specials_and_a_long_one_loses_its_end(corpus):
    texts = ["What?", "one two three four five six seven eight nine ten eleven twelve"]
    sequences = question_sequences(corpus, texts, 9)
    pieces = [corpus.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert sequences.lengths.tolist() == [4, 9] and sequences.second.tolist() == [4, 9]
    assert sequences.ids[0].tolist() == [corpus.cls_id, *pieces[0], corpus.sep_id] + [corpus.pad_id] * 5
    assert sequences.ids[1].tolist() == [corpus.cls_id, *pieces[1][:7], corpus.sep_id]


def test_a_batch_knows_its_answers_and_the_questions_of_the_whole_step(corpus):
    parts = examples(corpus).micro_batches(range(5), 2)
    assert [len(part) for part in parts] == [2, 2, 1] and {part.step_questions for part in parts} == {5}
    whole = examples(corpus).micro_batches(range(5), 5)[0]
    assert sum((part.answers for part in parts), ()) == whole.answers
    assert sum((part.regex for part in parts), ()) == whole.regex and sum(whole.regex) == 1
    rows = [part.queries.ids[row, : part.queries.lengths[row]].tolist() for part in parts for row in range(len(part))]
    assert rows == [whole.queries.ids[row, : whole.queries.lengths[row]].tolist() for row in range(5)]


def test_every_epoch_asks_every_question_once_in_an_order_of_its_own_that_the_seed_decides(corpus):
    asked = [examples(corpus).micro_batches(range(start, start + 5), 5)[0].answers for start in (0, 5, 10, 15)]
    assert all(sorted(epoch) == sorted(question.answers for question in QUESTIONS) for epoch in asked)
    assert len(set(asked)) > 1
    assert examples(corpus).micro_batches(range(5, 10), 5)[0].answers == asked[1]
    others = {examples(corpus, seed=seed).micro_batches(range(5), 5)[0].answers for seed in range(6)}
    assert len(others) > 1


def test_no_questions_are_refused(corpus):
    with pytest.raises(BadInput, match="got none, expected at least one"):
        QuestionExamples([], corpus, query_length=12, seed=0)
