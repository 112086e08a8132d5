"""Held-out sentences: is the reader better off with what the retriever finds than without?"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer

from realm_train.batch import MISSING, Candidates, MaskedBatch, Neighbours
from realm_train.callbacks.display import log
from realm_train.callbacks.examining import Examining
from realm_train.data.corpus import Corpus
from realm_train.evaluation.retrieval import holds_answer
from realm_train.models.realm import RealmOutput
from realm_train.objectives.marginal import entropy
from realm_train.ports import Index


class HeldOut(Examining):
    """Evaluates before training, every `every` steps and after training; writes `heldout/<stage>-<step>.json`.

    The same sentences every time: their loss with retrieval, their loss with the null passage alone, and for the first
    `shown` of them what was retrieved and what it did. At every adoption it measures recall and the overlap of the old
    index's top passages with the new one's.
    """

    def __init__(
        self,
        run: Path,
        corpus: Corpus,
        batches: Sequence[MaskedBatch],
        *,
        stage: str = "pretrain",
        every: int | None = None,
        shown: int = 10,
    ) -> None:
        self.folder, self.corpus, self.batches = run / "heldout", corpus, batches
        self.stage, self.every, self.shown = stage, every, shown

    def start(self, trainer: Trainer, task: LightningModule) -> None:
        """The learned null score begins where the candidates are; then the first evaluation."""
        task.realm.start_null_at(self._candidate_score(task))
        self.evaluate(trainer, task)

    def _candidate_score(self, task: LightningModule) -> float:
        """Mean score f(x,z) of what the reader would read on these sentences."""
        found = self._search(task, self.questions(task), task.retrieval.index)
        scores = torch.cat([neighbours.scores for neighbours in found])[:, : task.retrieval.k - 1]
        scores = scores[scores.isfinite()]
        return float(scores.mean()) * task.realm.towers.scale if len(scores) else 0.0

    def search(
        self, task: LightningModule, queries: torch.Tensor, batch: MaskedBatch, k: int, *, index: Index
    ) -> Neighbours:
        """Never what gives the sentence away; see `Retrieval.search`."""
        return task.retrieval.search(queries, batch, k, index=index)

    def hits(self, batch: MaskedBatch, ids: torch.Tensor) -> np.ndarray:
        """Which passages hold the masked span: [B, K] bool."""
        rows = zip(ids.tolist(), (answer.numpy() for answer in batch.answers()), strict=True)
        return np.array([[self._holds(passage, answer) for passage in row] for row, answer in rows], dtype=bool)

    def _holds(self, passage: int, answer: np.ndarray) -> bool:
        return passage != MISSING and holds_answer(self.corpus.body(passage), answer, self.corpus.word_starts)

    def evaluate(self, trainer: Trainer, task: LightningModule) -> None:
        """Loss with and without retrieval, and recall, of the model and the index as they are."""
        found = self._search(task, self.questions(task), task.retrieval.index)
        outcomes = [task.evaluate(batch) for batch in self.batches]
        losses, nulls, rows = [], [], []
        for batch, (_, output) in zip(self.batches, outcomes, strict=True):
            batch = batch.to(task.device)
            losses.append(-task.log_marginal(output, batch).cpu())
            nulls.append(-task.log_null(output, batch).cpu())
            rows.append(torch.stack([output.log_prior[:, 0].exp(), entropy(output.log_prior)], dim=1).cpu())
        loss, null, health = torch.cat(losses), torch.cat(nulls), torch.cat(rows)
        masks = sum(int(batch.valid.sum()) for batch in self.batches)
        metrics = {
            "heldout/loss": float(loss.sum() / masks),
            "heldout/loss_null": float(null.sum() / masks),
            "heldout/utility": float((null - loss).sum() / masks),
            "heldout/p_null": float(health[:, 0].mean()),
            "heldout/entropy": float(health[:, 1].mean()),
            **self._recall(found),
            "index/recall": task.retrieval.index.recall,
        }
        log(trainer, metrics)
        self._write(trainer.global_step, metrics, loss, null, outcomes, task)

    def _write(
        self,
        step: int,
        metrics: dict[str, float],
        loss: torch.Tensor,
        null: torch.Tensor,
        outcomes: Sequence[tuple[Candidates, RealmOutput]],
        task: LightningModule,
    ) -> None:
        record = {
            "step": step,
            "stage": self.stage,
            "metrics": {name.split("/")[1]: value for name, value in metrics.items()},
            "loss_by_example": [round(value, 5) for value in loss.tolist()],
            "loss_null_by_example": [round(value, 5) for value in null.tolist()],
            "masks_by_example": [count for batch in self.batches for count in batch.valid.sum(dim=1).tolist()],
            "examples": self._examples(outcomes, task),
        }
        path = self._path(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(aside, path)

    def _path(self, step: int) -> Path:
        return self.folder / f"{self.stage}-{step:06d}.json"

    def _examples(self, outcomes: Sequence[tuple[Candidates, RealmOutput]], task: LightningModule) -> list[dict]:
        shown = []
        for batch, (candidates, output) in zip(self.batches, outcomes, strict=True):
            hits = self.hits(batch, candidates.ids)
            on_device = batch.to(task.device)
            marginal, null = task.log_marginal(output, on_device), task.log_null(output, on_device)
            for row in range(len(batch)):
                if len(shown) == self.shown:
                    return shown
                shown.append(
                    {
                        **self._question(batch, row),
                        "log_p": float(marginal[row]),
                        "log_p_null": float(null[row]),
                        "p_null": float(output.log_prior[row, 0].exp()),
                        "passages": self._passages(candidates, output, hits, row),
                    }
                )
        return shown

    def _question(self, batch: MaskedBatch, row: int) -> dict:
        length = int(batch.queries.lengths[row])
        source = int(batch.source[row])
        return {
            "id": source,
            "title": self.corpus.passage(source)["title"],
            "masked": self.corpus.decode(batch.queries.ids[row, 1 : length - 1].tolist()),
            "answer": self.corpus.decode(batch.answers()[row].tolist()),
        }

    def _passages(self, candidates: Candidates, output: RealmOutput, hits: np.ndarray, row: int) -> list[dict]:
        passages = []
        for slot in range(1, candidates.ids.shape[1]):
            if not candidates.present[row, slot]:
                continue
            number = int(candidates.ids[row, slot])
            passage = self.corpus.passage(number)
            passages.append(
                {
                    "id": number,
                    "title": passage["title"],
                    "text": passage["text"],
                    "p": math.exp(float(output.log_prior[row, slot])),
                    "score": float(output.scores[row, slot]),
                    "log_likelihood": float(output.log_likelihood[row, slot].sum()),
                    "has_answer": bool(hits[row, slot]),
                }
            )
        return passages
