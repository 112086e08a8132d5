"""Questions that fine-tuning does not see: does it find their answers, and read them?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer

from realm_train.batch import Neighbours, QuestionBatch
from realm_train.callbacks.display import log
from realm_train.callbacks.examining import DEPTHS, Examining
from realm_train.data.corpus import Corpus
from realm_train.data.question_examples import QuestionExamples
from realm_train.data.questions import Question
from realm_train.evaluation.exact_match import exact_match
from realm_train.evaluation.retrieval import recall_at
from realm_train.ports import Index
from realm_train.tasks.answering import DenseRetriever, Retrieved, Span, SpanAnswerer
from realm_train.tasks.question_retrieval import Beam, QuestionRetrieval


class QaHeldOut(Examining):
    """Logs exact match, recall and p(null) on the same questions every time, and nothing without any; a learned null
    score begins at the mean score of the passages of `null_begins`. A quick look while training: what is reported,
    evaluate says."""

    def __init__(
        self,
        questions: Sequence[Question],
        corpus: Corpus,
        *,
        query_length: int,
        passage_length: int,
        precision: str,
        every: int | None = None,
        null_begins: Sequence[Question] = (),
        size: int = 16,
    ) -> None:
        self.corpus, self.every = corpus, every
        self.query_length, self.passage_length, self.precision = query_length, passage_length, precision
        self.asked, self.null_begins = parts(questions, size), parts(null_begins, size)
        self.batches = []
        if questions:
            examples = QuestionExamples(questions, corpus, query_length=query_length, seed=0)
            self.batches = [examples.batch(part, len(questions)) for part in self.asked]
        self._passages = QuestionRetrieval(corpus, beam=max(DEPTHS), read=1, body_length=passage_length)

    def start(self, trainer: Trainer, task: LightningModule) -> None:
        """Where the null score begins; then the first evaluation."""
        if self.null_begins:
            found = self._retrieved(task, self.null_begins)
            scores = torch.cat([retrieved.scores[:, : task.retrieval.read] for retrieved in found])
            with torch.no_grad():
                task.qa.null_bias.fill_(scores[scores.isfinite()].mean())
        self.evaluate(trainer, task)

    def search(
        self, task: LightningModule, queries: torch.Tensor, batch: QuestionBatch, k: int, *, index: Index
    ) -> Neighbours:
        """Every passage may answer a question."""
        return task.retrieval.search(queries, k, index=index)

    def hits(self, batch: QuestionBatch, ids: torch.Tensor) -> np.ndarray:
        """Which passages hold an answer as whole words: [B, K] bool."""
        return Beam(ids=ids, spans=self._passages.answers(ids, batch)).holds().numpy()

    def evaluate(self, trainer: Trainer, task: LightningModule) -> None:
        """Asks all questions of the model and the index as they are."""
        if not self.asked:
            return
        found = self._retrieved(task, self.asked)
        answerer = SpanAnswerer(
            task.qa,
            self.corpus,
            depth=task.retrieval.read,
            query_length=self.query_length,
            body_length=self.passage_length,
            precision=self.precision,
        )
        right = []
        for part, retrieved in zip(self.asked, found, strict=True):
            spans = answerer([question.text for question in part], retrieved)
            right += [self._right(question, best) for question, best in zip(part, spans, strict=True)]
        hits = [self.hits(batch, retrieved.ids) for batch, retrieved in zip(self.batches, found, strict=True)]
        null = torch.cat([retrieved.log_prior()[:, 0] for retrieved in found]).exp()
        metrics = {"heldout/qa_exact_match": float(np.mean(right)), "heldout/p_null": float(null.mean())}
        metrics |= {f"heldout/qa_recall@{k}": recall_at(np.concatenate(hits), k) for k in DEPTHS}
        log(trainer, {**metrics, "index/recall": task.retrieval.index.recall})

    def _retrieved(self, task: LightningModule, asked: Sequence[Sequence[Question]]) -> list[Retrieved]:
        null = task.qa.null_bias
        retriever = DenseRetriever(
            task.towers,
            task.retrieval.index,
            self.corpus,
            query_length=self.query_length,
            null_bias=None if null is None else float(null.detach()),
            precision=self.precision,
        )
        return [retriever([question.text for question in part], max(DEPTHS)) for part in asked]

    def _right(self, question: Question, spans: Sequence[Span]) -> bool:
        said = spans[0].text if spans else ""
        return exact_match(said, question.answers, regex=question.regex)


def parts(questions: Sequence[Question], size: int) -> list[Sequence[Question]]:
    """The questions in order, `size` at a time."""
    return [questions[start : start + size] for start in range(0, len(questions), size)]
