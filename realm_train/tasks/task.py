"""What every task does alike: records move themselves, a step knows its micro-batches, gradients are cut."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from realm_train.batch import Record
from realm_train.tasks.optimizer import Optimization


class Task(pl.LightningModule):
    """A LightningModule whose optimiser step may be several micro-batches; `step_tokens` counts their real tokens."""

    def __init__(self, optimization: Optimization) -> None:
        super().__init__()
        self.optimization = optimization
        self.step_tokens = 0

    def transfer_batch_to_device(self, batch: Record, device: torch.device, dataloader_idx: int) -> Record:
        """Lightning cannot move frozen dataclasses."""
        return batch.to(device, non_blocking=True)

    def count_tokens(self, tokens: int, batch_idx: int) -> None:
        """Adds a micro-batch's real tokens to the step's."""
        self.step_tokens = tokens if self.is_first(batch_idx) else self.step_tokens + tokens

    def is_first(self, batch_idx: int) -> bool:
        """Whether this micro-batch begins an optimiser step."""
        return batch_idx % self.trainer.accumulate_grad_batches == 0

    def is_last(self, batch_idx: int) -> bool:
        """Whether this micro-batch ends an optimiser step."""
        return (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Cuts the norm of the gradient; Lightning refuses to for a fused optimizer, needlessly where no scaler is."""
        if self.trainer.precision == "16-mixed" or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
