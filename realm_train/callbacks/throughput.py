"""Tokens per second of the training steps alone: evaluation, encoding and checkpoints between them do not count."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Divides the task's `step_tokens`, the real (not padding) tokens of an optimiser step, by the step's seconds."""

    def __init__(self) -> None:
        self._seconds = self._started = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seconds += time.perf_counter() - self._started
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            pl_module.log("throughput/tokens_per_second", pl_module.step_tokens / self._seconds)
            self._seconds = 0.0
