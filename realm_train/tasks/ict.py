"""ICT warm start: the towers learn which passage a sentence was taken from."""

from __future__ import annotations

import torch
from torch import Tensor

from realm_train.batch import IctBatch
from realm_train.models.towers import Towers
from realm_train.objectives.contrastive import gather_with_gradient, in_batch_softmax
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.task import Task


class IctTask(Task):
    """One step of the inverse cloze task: a softmax over the passages of the batch, of all ranks together.

    Accuracy is reported apart for questions whose sentence was left in the passage (they should soon be near 1) and for
    the others, which are what is learned.
    """

    def __init__(self, towers: Towers, optimization: Optimization) -> None:
        super().__init__(optimization)
        self.towers = towers

    def outcome(self, batch: IctBatch) -> tuple[Tensor, Tensor]:
        """Loss in nats and hit of every question against the gathered passages."""
        queries = self.towers.query(batch.queries)
        passages, first = gather_with_gradient(self.towers.passage(batch.passages))
        sources, _ = gather_with_gradient(batch.source)
        positives = first + torch.arange(len(batch), device=queries.device)
        ignore = (sources[None, :, None] == batch.exclude[:, None, :]).any(dim=2)
        return in_batch_softmax(queries, passages, positives, ignore, self.towers.scale)

    def training_step(self, batch: IctBatch, batch_idx: int) -> Tensor:
        """The mean loss of the batch."""
        loss, hit = self.outcome(batch)
        self.count_tokens(int(batch.queries.lengths.sum() + batch.passages.lengths.sum()), batch_idx)
        self.log_dict(_accuracies(loss, hit, batch.kept), batch_size=len(batch))
        return loss.mean()

    def validation_step(self, batch: IctBatch, batch_idx: int) -> None:
        """The same on held-out documents."""
        loss, hit = self.outcome(batch)
        self.log_dict(
            {"heldout/ict_loss": loss.mean(), "heldout/ict_accuracy": hit.float().mean()}, batch_size=len(batch)
        )

    def configure_optimizers(self) -> dict:
        """See `Optimization`."""
        lr = self.optimization.peak_retriever
        return self.optimization.configure([(self.towers, lr)], precision=self.trainer.precision)


def _accuracies(loss: Tensor, hit: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """Metrics of one batch; an accuracy over no question is left out."""
    metrics = {"loss": loss.mean().detach(), "ict/accuracy": hit.float().mean()}
    for name, chosen in (("ict/accuracy_kept", kept), ("ict/accuracy_masked", ~kept)):
        if chosen.any():
            metrics[name] = hit[chosen].float().mean()
    return metrics
