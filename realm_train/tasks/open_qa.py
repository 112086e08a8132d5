"""Fine-tuning for open-domain question answering: retrieve, read spans, marginalise (ORQA, section 5; REALM, 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from realm_train.batch import MISSING, QuestionBatch
from realm_train.models.open_qa import OpenQa
from realm_train.models.towers import Towers
from realm_train.objectives.counts import global_sum, world_size
from realm_train.objectives.spans import marginal_choice
from realm_train.tasks.encode import evaluating, search_vectors
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.question_retrieval import Beam, QuestionRetrieval
from realm_train.tasks.reading import read_passages
from realm_train.tasks.task import Task


class OpenQaTask(Task):
    """One step of two losses: the retriever's over a beam of passages, where those that hold an answer are right, and
    the null passage where none does; the reader's over all spans of the best passages.

    A question none of whose passages read holds an answer teaches the reader nothing, and is not read. With
    `freeze_passages` the index is never stale; without, the best passages are embedded with the live weights. With
    `read_answer` a passage of the beam that holds an answer is read where none of the best does (as DPR's reader).
    """

    def __init__(
        self,
        qa: OpenQa,
        retrieval: QuestionRetrieval,
        optimization: Optimization,
        *,
        passage_length: int,
        freeze_passages: bool = True,
        read_answer: bool = False,
    ) -> None:
        super().__init__(optimization)
        self.qa, self.retrieval = qa, retrieval
        self.passage_length, self.freeze_passages, self.read_answer = passage_length, freeze_passages, read_answer
        self._sums = QaSums()
        if freeze_passages:
            qa.towers.passage.requires_grad_(False)

    @property
    def towers(self) -> Towers:
        """What the refresh encodes with."""
        return self.qa.towers

    def training_step(self, batch: QuestionBatch, batch_idx: int) -> Tensor:
        """Both losses, over the questions of all ranks and micro-batches of the step."""
        queries = self.towers.query(batch.queries)
        beam = self.retrieval.beam(search_vectors(self.towers.query, batch.queries, queries), batch)
        present = (beam.ids != MISSING).to(self.device)
        scores = self.qa.scores(queries, self._vectors(beam), present, self._null_vector())
        holds = beam.holds()
        right = torch.cat([~holds.any(dim=1, keepdim=True), holds], dim=1).to(self.device)
        retriever, _ = marginal_choice(scores, right)
        reader, hit, tokens = self._read(batch, beam, scores)
        self._sums.add(retriever, reader, hit, scores, holds, read=self.retrieval.read)
        self.count_tokens(tokens + int(batch.queries.lengths.sum()), batch_idx)
        questions = global_sum(batch.step_questions, self.device)
        # DDP and gradient accumulation both average what must be one sum over one count
        return -(retriever.sum() + reader.sum()) * (world_size() * self.trainer.accumulate_grad_batches / questions)

    def _null_vector(self) -> Float[Tensor, "1 D"] | None:
        """The null passage as the passage tower sees it; None where its score is learned instead."""
        if self.qa.null_bias is not None:
            return None
        null = self.retrieval.corpus.sequences(np.array([MISSING]), self.passage_length).to(self.device)
        if not self.freeze_passages:
            return self.towers.passage(null)
        with evaluating(self.towers.passage):  # as the index has its passages: without dropout
            return self.towers.passage(null)

    def _vectors(self, beam: Beam) -> Float[Tensor, "B K D"]:
        """As the index has them; those of the passages read by the live tower, if it learns."""
        vectors = self.retrieval.index.rows(beam.ids).to(self.device)
        if self.freeze_passages:
            return vectors
        unique, rows = torch.unique(beam.ids[:, : self.retrieval.read], return_inverse=True)
        live = self.towers.passage(self.retrieval.corpus.sequences(unique.numpy(), self.passage_length).to(self.device))
        return torch.cat([live[rows.to(self.device)], vectors[:, self.retrieval.read :]], dim=1)

    def _read(
        self, batch: QuestionBatch, beam: Beam, scores: Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, " Q"], Bool[Tensor, " Q"], int]:
        """The reader's log p of the answers of the questions that it can learn from, whether its best span is right,
        and how many tokens it read."""
        width = self.qa.span_reader.max_span
        useful = [spans[spans[:, 2] - spans[:, 1] < width] for spans in beam.spans]
        places = [self._places(spans) for spans in useful]
        # at least one is read, so that every rank has a gradient for every weight: that of log 1, if none is useful
        chosen = [row for row, spans in enumerate(useful) if np.isin(spans[:, 0], places[row]).any()] or [0]
        read = torch.tensor(np.stack(places))
        spans, tokens = read_passages(self.qa, self.retrieval, batch.queries, beam.ids.gather(1, read), rows=chosen)
        spans = spans + scores.gather(1, 1 + read.to(self.device))[chosen][:, :, None, None]
        right = torch.zeros(spans.shape, dtype=torch.bool)
        for number, row in enumerate(chosen):
            for slot, place in enumerate(places[row]):
                first, last = torch.from_numpy(useful[row][useful[row][:, 0] == place, 1:]).unbind(dim=1)
                right[number, slot, first, last - first] = True
        right = right.to(self.device) & ~spans.isneginf()  # a body may have been cut
        log_p, answered = marginal_choice(spans.flatten(1), right.flatten(1))
        best = spans.flatten(1).argmax(dim=1, keepdim=True)
        hit = right.flatten(1).gather(1, best)[:, 0]
        return log_p[answered], hit[answered], tokens

    def _places(self, spans: Int[np.ndarray, "S 3"]) -> Int[np.ndarray, " R"]:
        """Which places of the beam are read: the best, or with `read_answer` one that holds an answer for the last of
        them, where none of them does."""
        places = np.arange(self.retrieval.read)
        if self.read_answer and len(spans) and spans[0, 0] >= self.retrieval.read:
            places[-1] = spans[0, 0]
        return places

    def on_train_batch_end(self, outputs: object, batch: QuestionBatch, batch_idx: int) -> None:
        """Logs the whole optimiser step once its last micro-batch is done."""
        if self.is_last(batch_idx):
            self.log_dict(self._sums.metrics(), sync_dist=world_size() > 1)
            self._sums = QaSums()

    def configure_optimizers(self) -> dict:
        """The towers', the reader's and the learned null score's learning rates; see `Optimization`."""
        rates, qa = self.optimization, self.qa
        groups = [(qa.towers, rates.peak_retriever), (qa.span_reader, rates.lr), (qa, rates.lr_null)]
        return rates.configure(groups, precision=self.trainer.precision)


class QaSums:
    """What one optimiser step says of retriever and reader, summed over its micro-batches."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(
        self,
        retriever: Float[Tensor, " B"],
        reader: Float[Tensor, " Q"],
        hit: Bool[Tensor, " Q"],
        scores: Float[Tensor, "B C"],
        holds: Bool[Tensor, "B K"],
        *,
        read: int,
    ) -> None:
        """Counts one micro-batch."""
        values = {
            "questions": torch.tensor(len(retriever)),
            "retriever": retriever.detach().sum(),
            "reader": reader.detach().sum(),
            "read": torch.tensor(len(reader)),
            "hits": hit.sum(),
            "p_null": scores.detach().softmax(dim=1)[:, 0].sum(),
            "in_beam": holds.any(dim=1).sum(),
            "in_read": holds[:, :read].any(dim=1).sum(),
        }
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.float().cpu()

    def metrics(self) -> Mapping[str, float]:
        """`loss` and the retriever's in nats a question; the reader's, and its hits, a question read."""
        sums = {name: float(value) for name, value in self.sums.items()}
        questions, read = sums["questions"], max(1.0, sums["read"])
        return {
            "loss": -(sums["retriever"] + sums["reader"]) / questions,
            "qa/retriever_loss": -sums["retriever"] / questions,
            "qa/reader_loss": -sums["reader"] / read,
            "qa/span_match": sums["hits"] / read,
            "qa/answer_in_beam": sums["in_beam"] / questions,
            "qa/answer_in_read": sums["in_read"] / questions,
            "retrieval/p_null": sums["p_null"] / questions,
        }
