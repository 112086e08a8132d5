"""A run that can be asked, without a model: it counts words in common, and reads the first new name that follows."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from fake_run import PASSAGES

from realm_train.asking.answered import Responder
from realm_train.batch import MISSING
from realm_train.tasks.answering import Retrieved, Span

DOCUMENTS = [{"id": number, "title": title, "text": text} for number, (title, text) in enumerate(PASSAGES.items())]
NAMES = re.compile(r"[A-Z]\w+(?: [A-Z]\w+)*")


def words(text: str) -> set[str]:
    return set(re.findall(r"\w{4,}", text.lower()))


class Shelf:
    """Passages in memory."""

    def __init__(self, documents: Sequence[dict] = DOCUMENTS) -> None:
        self.documents, self.count = list(documents), len(documents)

    def passage(self, passage: int) -> dict:
        return self.documents[passage]


class WordsInCommon:
    """f(x,z) is how many words question and passage share; passages that share none are not found."""

    def __init__(self, shelf: Shelf, *, recall: float = 1.0, weight: float = 1.0) -> None:
        self.name, self.recall, self.shelf, self.weight = "words in common", recall, shelf, weight

    def __call__(self, questions: Sequence[str], k: int) -> Retrieved:
        ids = torch.full((len(questions), k), MISSING)
        scores = torch.full((len(questions), k), -torch.inf)
        for row, question in enumerate(questions):
            shared = [len(words(question) & words(" ".join((d["title"], d["text"])))) for d in self.shelf.documents]
            ranked = sorted((number for number, count in enumerate(shared) if count), key=lambda n: -shared[n])[:k]
            ids[row, : len(ranked)] = torch.tensor(ranked, dtype=torch.long)
            scores[row, : len(ranked)] = self.weight * torch.tensor([float(shared[number]) for number in ranked])
        return Retrieved(ids=ids, scores=scores, null=torch.zeros(len(questions)))


class FirstName:
    """Reads from each of the first `depth` passages the first name that the question does not hold."""

    def __init__(self, shelf: Shelf, *, depth: int = 3, last_wins: bool = False) -> None:
        self.shelf, self.depth, self.last_wins = shelf, depth, last_wins

    def __call__(self, questions: Sequence[str], retrieved: Retrieved) -> list[list[Span]]:
        return [self.read(*row) for row in zip(questions, retrieved.ids.tolist(), strict=True)]

    def read(self, question: str, ids: list[int]) -> list[Span]:
        spans = []
        for passage in [number for number in ids[: self.depth] if number != MISSING]:
            found = NAMES.finditer(self.shelf.passage(passage)["text"])
            if name := next((name for name in found if not words(name[0]) <= words(question)), None):
                spans.append((passage, *name.span(), name[0]))
        ordered = spans[::-1] if self.last_wins else spans
        return [Span(*span, 0.5**place) for place, span in enumerate(ordered, 1)]


def responder(
    name: str = "runs-a", *, documents: Sequence[dict] = DOCUMENTS, tuned: bool = True, **settings
) -> Responder:
    """A run that can be asked; `depth`, `last_wins`, `recall` and `weight` go to its parts, the rest to Responder."""
    shelf = Shelf(documents)
    reading = {key: settings.pop(key) for key in ("depth", "last_wins") if key in settings}
    finding = {key: settings.pop(key) for key in ("recall", "weight") if key in settings}
    return Responder(
        name=name,
        corpus=shelf,
        retriever=WordsInCommon(shelf, **finding),
        answerer=FirstName(shelf, **reading) if tuned else None,
        closed_book=None if tuned else lambda questions: ["a guess"] * len(questions),
        **settings,
    )
