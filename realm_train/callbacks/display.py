"""Metrics that belong to no training step, and words for what takes long between two steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pytorch_lightning import Trainer


def log(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Writes metrics to every logger at the current step, and shows them on the live table."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)
    trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in metrics.items()})
