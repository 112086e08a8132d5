"""Questions as a model reads them, and in which order training asks them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from realm_train.batch import QuestionBatch, Sequences
from realm_train.data.corpus import Corpus
from realm_train.data.masked import with_specials
from realm_train.data.questions import Question
from realm_train.data.sampling import Shuffle
from realm_train.errors import BadInput


def question_sequences(corpus: Corpus, texts: Sequence[str], max_length: int) -> Sequences:
    """`[CLS] x [SEP]` in the corpus's word pieces, at most `max_length` long: the end of a longer question is cut."""
    encoded = corpus.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return with_specials([np.array(one.ids[: max_length - 2], dtype=np.int64) for one in encoded], corpus)


class QuestionExamples:
    """Questions in a shuffled order without an end: what stands at a position is a function of the seed."""

    def __init__(self, questions: Sequence[Question], corpus: Corpus, *, query_length: int, seed: int) -> None:
        if not questions:
            raise BadInput("questions: got none, expected at least one to learn from")
        self.questions, self.corpus, self.query_length = list(questions), corpus, query_length
        self.order = Shuffle(np.arange(len(questions)), seed)

    def micro_batches(self, positions: Sequence[int], size: int) -> list[QuestionBatch]:
        """The questions of one step in batches of `size`, each knowing how many the whole step asks."""
        chosen = [self.questions[self.order[position]] for position in positions]
        return [self.batch(chosen[start : start + size], len(chosen)) for start in range(0, len(chosen), size)]

    def batch(self, questions: Sequence[Question], step_questions: int) -> QuestionBatch:
        """These questions, in this order."""
        return QuestionBatch(
            queries=question_sequences(self.corpus, [question.text for question in questions], self.query_length),
            answers=tuple(question.answers for question in questions),
            regex=tuple(question.regex for question in questions),
            step_questions=step_questions,
        )
