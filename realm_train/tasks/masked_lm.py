"""Reader warm start: masked language modelling without passages, for encoders whose head is missing."""

from __future__ import annotations

from torch import Tensor

from realm_train.batch import MaskedBatch
from realm_train.models.reader import Reader, joint_inputs
from realm_train.objectives.counts import global_sum, world_size
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.task import Task


class MaskedLmTask(Task):
    """One step of masked language modelling on what REALM's null slot reads, `[CLS] x [SEP] [SEP]`.

    Passages cost most of a REALM step; what a reader can learn without any it learns here for little.
    """

    def __init__(self, reader: Reader, optimization: Optimization, *, sep_id: int) -> None:
        super().__init__(optimization)
        self.reader, self.sep_id = reader, sep_id
        self._log_p = 0.0

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        """Minus the log-likelihood of the null slot, over the masks of all ranks and micro-batches of the step."""
        nothing = batch.queries.ids.new_zeros(len(batch), 0), batch.queries.lengths.new_zeros(len(batch))
        width = batch.queries.ids.shape[1] + 1
        joint = joint_inputs(batch.queries, *nothing, sep_id=self.sep_id, max_length=width)
        log_p = self.reader(joint, batch.positions, batch.targets, batch.valid).sum()
        masks = global_sum(batch.step_masks, self.device)
        self.count_tokens(int(joint.lengths.sum()), batch_idx)
        self._log_p = log_p.detach() + (0 if self.is_first(batch_idx) else self._log_p)
        if self.is_last(batch_idx):
            self.log("loss", -self._log_p / batch.step_masks, sync_dist=world_size() > 1)
        return -log_p * (world_size() * self.trainer.accumulate_grad_batches / masks)

    def configure_optimizers(self) -> dict:
        """See `Optimization`."""
        return self.optimization.configure([(self.reader, self.optimization.lr)], precision=self.trainer.precision)
