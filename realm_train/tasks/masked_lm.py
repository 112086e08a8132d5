"""Reader warm start: masked language modelling without retrieval, for encoders whose head is missing."""

from __future__ import annotations

import torch
from torch import Tensor

from realm_train.batch import MaskedBatch, ReadingBatch, Sequences
from realm_train.models.reader import Reader, joint_inputs
from realm_train.objectives.counts import global_sum, world_size
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.task import Task


class MaskedLmTask(Task):
    """One step of masked language modelling on what REALM's reader will read: the null passage's `[CLS] x [SEP] [SEP]`,
    and `[CLS] x [SEP] body [SEP]` with a passage that holds the answer, where there is one.

    Retrieval costs most of a REALM step; what a reader can learn without, it learns here for little.
    """

    def __init__(self, reader: Reader, optimization: Optimization, *, sep_id: int, max_joint_length: int) -> None:
        super().__init__(optimization)
        self.reader, self.sep_id, self.max_joint_length = reader, sep_id, max_joint_length

    def training_step(self, batch: ReadingBatch, batch_idx: int) -> Tensor:
        """Minus the log-likelihoods without and with a passage, over the masks of the step."""
        masked = batch.masked
        helped = (batch.body_lengths > 0).nonzero().squeeze(1)
        rows = torch.cat([torch.arange(len(batch), device=helped.device), helped])
        lengths = torch.cat([torch.zeros_like(batch.body_lengths), batch.body_lengths[helped]])
        queries = Sequences(masked.queries.ids[rows], masked.queries.lengths[rows], masked.queries.second[rows])
        joint = joint_inputs(queries, batch.bodies[rows], lengths, sep_id=self.sep_id, max_length=self.max_joint_length)
        self.count_tokens(int(joint.lengths.sum()), batch_idx)
        log_p = self.reader(joint, masked.positions[rows], masked.targets[rows], masked.valid[rows]).sum(dim=1)
        self._report(log_p.detach(), helped, masked)
        masks = global_sum(masked.step_masks, self.device)
        return -log_p.sum() * (world_size() * self.trainer.accumulate_grad_batches / masks)

    def _report(self, log_p: Tensor, helped: Tensor, masked: MaskedBatch) -> None:
        null, with_passage = log_p[: len(masked)], log_p[len(masked) :]
        self.log("loss", -null.sum() / masked.valid.sum(), sync_dist=world_size() > 1)
        if len(helped):
            gain = (with_passage - null[helped]).sum() / masked.valid[helped].sum()
            self.log("mlm/oracle_utility", gain, sync_dist=world_size() > 1)

    def configure_optimizers(self) -> dict:
        """See `Optimization`."""
        return self.optimization.configure([(self.reader, self.optimization.lr)], precision=self.trainer.precision)
