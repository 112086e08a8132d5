"""What a new index is worth: recall on questions that nobody trains on, and how far it agrees with the old one."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from realm_train.batch import Neighbours
from realm_train.evaluation.retrieval import overlap_at, recall_at
from realm_train.ports import Index
from realm_train.tasks.encode import evaluating

DEPTHS = (1, 5, 20)


class Examining(Callback):
    """A callback with `batches` of questions, each with their `queries`: asks them of every new index, and evaluates
    before training, every `every` steps and after training."""

    batches: Sequence[Any]
    every: int | None
    _boundary = -1  # the last step seen

    @abstractmethod
    def evaluate(self, trainer: Trainer, task: LightningModule) -> None:
        """Logs what model and index are worth now."""

    def start(self, trainer: Trainer, task: LightningModule) -> None:
        """The first evaluation."""
        self.evaluate(trainer, task)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._boundary = trainer.global_step
        if trainer.global_step == 0:  # a resumed run was evaluated before its checkpoint was written
            self.start(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self._boundary:
            return
        self._boundary = trainer.global_step
        if self.every and trainer.global_step % self.every == 0 and trainer.global_step < trainer.max_steps:
            self.evaluate(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(trainer, pl_module)

    @abstractmethod
    def search(self, task: LightningModule, queries: torch.Tensor, batch: Any, k: int, *, index: Index) -> Neighbours:
        """The k best passages of a batch whose vectors are `queries` [B, D]."""

    @abstractmethod
    def hits(self, batch: Any, ids: torch.Tensor) -> np.ndarray:
        """Which passages [B, K] answer their question."""

    def examine(self, task: LightningModule, old: Index | None, new: Index) -> Callable[[], dict[str, float]]:
        """Copies the query tower as it is now; what it returns embeds the questions and searches both indexes, in any
        thread and while training goes on: recall with the new one, and its overlap with the old one."""
        tower = copy.deepcopy(task.towers.query)

        def search() -> dict[str, float]:
            queries = self._embedded(task, tower)
            found = self._search(task, queries, new)
            metrics = self._recall(found)
            if old is not None:
                before = self._search(task, queries, old)
                first, second = (np.concatenate([n.ids.numpy() for n in searches]) for searches in (before, found))
                metrics |= {f"index/overlap@{k}": overlap_at(first, second, k) for k in DEPTHS}
            return metrics

        return search

    def questions(self, task: LightningModule) -> list[torch.Tensor]:
        """The questions' vectors [B, D] by the live weights, batch by batch."""
        return self._embedded(task, task.towers.query)

    def _embedded(self, task: LightningModule, tower: nn.Module) -> list[torch.Tensor]:
        with evaluating(tower), task.trainer.precision_plugin.forward_context():
            return [tower(batch.queries.to(task.device)) for batch in self.batches]

    def _search(self, task: LightningModule, queries: Sequence[torch.Tensor], index: Index) -> list[Neighbours]:
        found = zip(queries, self.batches, strict=True)
        return [self.search(task, vectors, batch, max(DEPTHS), index=index) for vectors, batch in found]

    def _recall(self, found: Sequence[Neighbours]) -> dict[str, float]:
        hits = [self.hits(batch, n.ids) for batch, n in zip(self.batches, found, strict=True)]
        return {f"retrieval/recall@{k}": recall_at(np.concatenate(hits), k) for k in DEPTHS}
