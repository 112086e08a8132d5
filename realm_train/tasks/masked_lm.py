"""Reader warm start: masked language modelling without passages, for encoders whose head is missing."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor

from realm_train.batch import MaskedBatch
from realm_train.models.reader import Reader, joint_inputs
from realm_train.objectives.counts import global_sum, world_size
from realm_train.tasks.optimizer import Optimization


class MaskedLmTask(pl.LightningModule):
    """One step of masked language modelling on what REALM's null slot reads, `[CLS] x [SEP] [SEP]`.

    Passages cost most of a REALM step; what a reader can learn without any it learns here for little.
    """

    def __init__(self, reader: Reader, optimization: Optimization, *, sep_id: int) -> None:
        super().__init__()
        self.reader, self.optimization, self.sep_id = reader, optimization, sep_id
        self.step_tokens = 0  # real tokens of the last optimiser step
        self._log_p = 0.0

    def transfer_batch_to_device(self, batch: MaskedBatch, device: torch.device, dataloader_idx: int) -> MaskedBatch:
        """Our records move themselves."""
        return batch.to(device, non_blocking=True)

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        """Minus the log-likelihood of the null slot, over the masks of all ranks and micro-batches of the step."""
        nothing = batch.queries.ids.new_zeros(len(batch), 0), batch.queries.lengths.new_zeros(len(batch))
        width = batch.queries.ids.shape[1] + 1
        joint = joint_inputs(batch.queries, *nothing, sep_id=self.sep_id, max_length=width)
        log_p = self.reader(joint, batch.positions, batch.targets, batch.valid).sum()
        masks = global_sum(batch.step_masks, self.device)
        first = batch_idx % self.trainer.accumulate_grad_batches == 0
        tokens = int(joint.lengths.sum())
        self.step_tokens = tokens if first else self.step_tokens + tokens
        self._log_p = log_p.detach() if first else self._log_p + log_p.detach()
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            self.log("loss", -self._log_p / batch.step_masks, sync_dist=world_size() > 1)
        return -log_p * (world_size() * self.trainer.accumulate_grad_batches / masks)

    def configure_optimizers(self) -> dict:
        """See `Optimization`."""
        return self.optimization.configure([(self.reader, self.optimization.lr)])
