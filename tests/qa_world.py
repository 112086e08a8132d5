"""A run that answers without a model: its retriever draws lots by the question, its reader says the first words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from realm_train.batch import MISSING
from realm_train.data.corpus import Corpus
from realm_train.data.questions import Question
from realm_train.tasks.answering import Retrieved, Span, SpanAnswerer
from realm_train.tasks.closed_book import ClosedBook
from realm_train.trained import Trained


class DrawnRetriever:
    """Ranks all passages by numbers that are drawn with the question as seed; finds at most `reach` of them."""

    name = "drawn"

    def __init__(self, corpus: Corpus, *, recall: float = 1.0, reach: int | None = None, null: float = 0.0) -> None:
        self.count, self.recall, self.reach, self.null = corpus.count, recall, reach or corpus.count, null
        self.asked: list[tuple[int, int]] = []  # questions and k of every call

    def ranking(self, question: str) -> tuple[np.ndarray, np.ndarray]:
        """Every passage, best first, and the scores."""
        seed = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big")
        scores = np.random.default_rng(seed).normal(size=self.count).astype(np.float32)
        order = np.argsort(-scores)
        return order, scores[order]

    def __call__(self, questions, k: int) -> Retrieved:
        self.asked.append((len(questions), k))
        ids = torch.full((len(questions), k), MISSING)
        scores = torch.full((len(questions), k), -torch.inf)
        found = min(k, self.reach)
        for row, question in enumerate(questions):
            order, best = self.ranking(question)
            ids[row, :found] = torch.from_numpy(order[:found])
            scores[row, :found] = torch.from_numpy(best[:found])
        return Retrieved(ids=ids, scores=scores, null=torch.full((len(questions),), self.null))


class FirstWords(SpanAnswerer):
    """Answers with the first two words of the passage that is best by score, lower place first."""

    def __init__(self, corpus: Corpus, *, depth: int = 3) -> None:
        self.corpus, self.depth = corpus, depth
        self.given: list[Retrieved] = []

    def __call__(self, questions, retrieved: Retrieved) -> list[list[Span]]:
        self.given.append(retrieved)
        return [self._spans(row) for row in retrieved.ids[:, : self.depth].tolist()]

    def _spans(self, ids: list[int]) -> list[Span]:
        found = [passage for passage in ids if passage != MISSING]
        texts = [" ".join(self.corpus.passage(passage)["text"].split(" ")[:2]) for passage in found]
        return [
            Span(passage=passage, start=0, end=len(text), text=text, p=1 / len(found))
            for passage, text in zip(found, texts, strict=True)
        ]


class Parrot(ClosedBook):
    """Says the question's last word."""

    def __init__(self) -> None:
        pass

    def __call__(self, questions) -> list[str]:
        return [question.rstrip("?").split()[-1] for question in questions]


class DrawnRun(Trained):
    """A trained run of these parts."""

    def __init__(self, run: Path, corpus: Corpus, *, stage: str = "open_qa", recall: float = 1.0) -> None:
        self.run, self.corpus, self.stage, self.step, self.device = run, corpus, stage, 7, "cpu"
        self.cfg = OmegaConf.create({})
        self._retriever = DrawnRetriever(corpus, recall=recall)

    def retriever(self, name: str = "dense") -> DrawnRetriever:
        return self._retriever

    def answerer(self, depth: int | None = None) -> FirstWords | None:
        return FirstWords(self.corpus, depth=depth or 3) if self.stage == "open_qa" else None

    def closed_book(self) -> Parrot | None:
        return None if self.stage == "ict" else Parrot()


def questions_of(corpus: Corpus, count: int) -> list[Question]:
    """Questions whose answer is the third and fourth word of a passage; each second one has an answer that no passage
    holds."""
    questions = []
    for number in range(count):
        words = corpus.passage(number * 3 % len(corpus))["text"].split(" ")
        answer = " ".join(words[2:4]).strip(".,;")
        held = (answer,) if number % 2 == 0 else (f"nothing like {answer}",)
        questions.append(Question(text=f"{' '.join(words[4:9])}?", answers=held, id=f"q{number}"))
    return questions
