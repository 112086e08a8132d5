"""Whether replies are right: every measure of one question, and its line in the predictions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from realm_train.data.corpus import Corpus
from realm_train.data.questions import Question
from realm_train.evaluation.exact_match import exact_match, f1
from realm_train.evaluation.matching import AnswerMatcher, Matching
from realm_train.evaluation.qa_metrics import short
from realm_train.tasks.systems import Reply

TEXTS = 1 << 16  # passages whose text is kept


@dataclass(frozen=True)
class Judged:
    """A reply and what it is worth; `exact` and `f1` are None where nothing was predicted."""

    question: Question
    reply: Reply
    hits: tuple[bool, ...]  # whether each passage holds an answer
    exact: bool | None
    f1: float | None


class Judge:
    """Matches passages and predictions with answers; a question whose answers are patterns is matched by them."""

    def __init__(self, corpus: Corpus, matching: Matching) -> None:
        self.matching = matching
        self._matcher, self._patterns = AnswerMatcher(matching), AnswerMatcher("regex")
        self.passage = lru_cache(TEXTS)(corpus.passage)

    def holds(self, text: str, question: Question) -> bool:
        """Whether the text holds an answer of the question."""
        matcher = self._patterns if question.regex else self._matcher
        return matcher.holds(text, question.answers)

    def __call__(self, question: Question, reply: Reply) -> Judged:
        """The reply judged. F1 is not defined for patterns: there it is the exact match."""
        hits = tuple(self.holds(self.passage(number)["text"], question) for number in reply.passages)
        if reply.prediction is None:
            return Judged(question, reply, hits, None, None)
        exact = exact_match(reply.prediction, question.answers, regex=question.regex)
        return Judged(
            question, reply, hits, exact, float(exact) if question.regex else f1(reply.prediction, question.answers)
        )

    def line(self, judged: Judged, shown: int) -> dict[str, Any]:
        """The question as a line of the predictions, with its first `shown` passages."""
        question, reply = judged.question, judged.reply
        p = reply.p or (None,) * len(reply.passages)
        rows = list(zip(reply.passages, reply.scores, p, judged.hits, strict=True))[:shown]
        return {
            **({"id": question.id} if question.id else {}),
            "question": question.text,
            "prediction": reply.prediction,
            "answers": list(question.answers),
            "em": judged.exact,
            "f1": short(judged.f1),
            "has_answer": any(judged.hits),
            "p_null": short(reply.p_null),
            "passages": [self._passage(*row) for row in rows],
        }

    def _passage(self, number: int, score: float, p: float | None, hit: bool) -> dict[str, Any]:
        stored = self.passage(number)
        return {
            "id": stored["id"],
            "title": stored["title"],
            "score": short(score),
            "p": short(p),
            "has_answer": hit,
        }
