"""A retriever that finds no more than chance cannot be taught by the reader: say so before the hours are spent."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from realm_train.batch import MISSING
from realm_train.callbacks.heldout import HeldOut
from realm_train.evaluation.retrieval import recall_at


class ColdStart(Callback):
    """Warns when recall@20 of the first index on held-out sentences is below `times_chance` that of random passages."""

    def __init__(self, heldout: HeldOut, *, times_chance: float) -> None:
        self.heldout, self.times_chance = heldout, times_chance

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step or not trainer.is_global_zero:
            return
        recall, chance = float(trainer.callback_metrics["retrieval/recall@20"]), self.chance()
        # of a small corpus random passages find so much that no retriever finds many times more
        wanted = min(self.times_chance * chance, (1 + chance) / 2)
        if recall < wanted or recall == 0:
            warnings.warn(
                f"cold start: the retriever finds the answer of {recall:.1%} of the held-out sentences in its top 20,"
                f" random passages {chance:.1%}. The reader cannot teach such a retriever: p(null) will go to 1."
                " Warm it with ICT first (stages=[ict,pretrain], or more ict.steps), or give retriever=<a run that"
                " has a trained one>.",
                UserWarning,
                stacklevel=2,
            )

    def chance(self, draws: int = 20) -> float:
        """Recall of passages drawn at random, on the same sentences and with the same passages excluded."""
        rng = np.random.default_rng(0)
        hits = []
        for batch in self.heldout.batches:
            ids = torch.from_numpy(rng.integers(self.heldout.corpus.count, size=(len(batch), draws)))
            excluded = (ids[:, :, None] == batch.exclude[:, None, :]).any(dim=2)
            hits.append(self.heldout.hits(batch, ids.masked_fill(excluded, MISSING)))
        return recall_at(np.concatenate(hits), draws)
