"""A question and what a run says to it: the one thing that terminal, JSON and page show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from realm_train.batch import MISSING
from realm_train.errors import BadInput
from realm_train.tasks.answering import Retrieved, Retriever, Span

LONGEST = 2000  # characters of a question: more is a mistake, and a model would cut it anyway


@dataclass(frozen=True)
class Shown:
    """A retrieved passage; `span` is where its best answer stands in `text`, None where none was read from it."""

    id: int
    title: str
    text: str
    score: float  # f(x,z)
    p: float  # p(z|x), among the passages retrieved and the null passage
    span: tuple[int, int] | None = None
    span_p: float | None = None


@dataclass(frozen=True)
class Answered:
    """The passages best first, the likeliest answer span in them, and without a span reader the guess of the masked
    language model, which saw no passage."""

    question: str
    run: str
    answer: str | None
    p: float | None  # of the answer's span, among the spans of all passages read
    guess: str | None
    p_null: float
    index_recall: float  # how much of what exact search finds the search finds
    passages: tuple[Shown, ...]

    def source(self) -> int | None:
        """The place of the passage that the answer comes from."""
        read = [place for place, shown in enumerate(self.passages) if shown.span_p is not None]
        return max(read, key=lambda place: self.passages[place].span_p) if self.answer is not None else None


@runtime_checkable
class Texts(Protocol):
    """What a corpus is asked for."""

    def passage(self, passage: int) -> dict:
        """`id`, `title` and `text` of a passage."""
        ...


@runtime_checkable
class ReadsSpans(Protocol):
    """What a span reader is asked for."""

    depth: int  # passages that it reads

    def __call__(self, questions: Sequence[str], retrieved: Retrieved) -> list[list[Span]]:
        """The best span of each passage read, best first."""
        ...


class Responder:
    """A trained run that can be asked: a retriever, and what reads its passages or guesses without them."""

    def __init__(
        self,
        *,
        name: str,
        corpus: Texts,
        retriever: Retriever,
        answerer: ReadsSpans | None = None,
        closed_book: Callable[[Sequence[str]], list[str]] | None = None,
        k: int = 5,
        considered: int = 0,
    ) -> None:
        """`considered`: p(z|x) is over so many passages at least, however few of them are shown."""
        if k < 1:
            raise BadInput(f"k: got {k}, expected the number of passages to show, at least 1")
        self.name, self.corpus, self.k, self.considered = name, corpus, k, considered
        self.retriever, self.answerer, self.closed_book = retriever, answerer, closed_book

    def __call__(self, question: str) -> Answered:
        """The run's answer; BadInput for a question without words, or of more than 2,000 characters."""
        question = " ".join(question.split())
        if not question or len(question) > LONGEST:
            raise BadInput(f"question: got {len(question)} characters, expected 1 to {LONGEST}; ask a shorter one")
        depth = self.answerer.depth if self.answerer else 0
        retrieved = self.retriever([question], max(self.k, depth, self.considered))
        spans = self.answerer([question], retrieved)[0] if self.answerer else []
        guesses = self.closed_book([question]) if self.closed_book and not self.answerer else [None]
        return Answered(
            question=question,
            run=self.name,
            answer=spans[0].text if spans else None,
            p=spans[0].p if spans else None,
            guess=guesses[0],
            p_null=retrieved.log_prior()[0, 0].exp().item(),
            index_recall=self.retriever.recall,
            passages=self.shown(retrieved, spans),
        )

    def shown(self, retrieved: Retrieved, spans: Sequence[Span]) -> tuple[Shown, ...]:
        """The k best passages, and after them the one of the answer where it is not among them."""
        read = {span.passage: span for span in spans}
        ids, scores = retrieved.ids[0].tolist(), retrieved.scores[0].tolist()
        prior = retrieved.log_prior()[0, 1:].exp().tolist()
        found = [row for row in zip(ids, scores, prior, strict=True) if row[0] != MISSING]
        wanted = [row for place, row in enumerate(found) if place < self.k or spans[:1] and row[0] == spans[0].passage]
        return tuple(self.passage(*row, read.get(row[0])) for row in wanted)

    def passage(self, number: int, score: float, p: float, span: Span | None) -> Shown:
        """One passage with its text."""
        stored = self.corpus.passage(number)
        found = {"span": (span.start, span.end), "span_p": span.p} if span else {}
        return Shown(id=stored["id"], title=stored["title"], text=stored["text"], score=score, p=p, **found)


def record(answered: Answered, *versus: Answered) -> dict[str, Any]:
    """Plain values for JSON; of a second run under `versus`."""
    return asdict(answered) | ({"versus": asdict(versus[0])} if versus else {})
