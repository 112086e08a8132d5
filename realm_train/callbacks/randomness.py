"""The generators' states in every checkpoint: a resumed run draws the dropout that the uninterrupted one would."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class Randomness(Callback):
    """Saves and restores the states of Python's, numpy's and torch's generators."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._restored is None:
            return
        random.setstate(self._restored["python"])
        np.random.set_state(self._restored["numpy"])
        torch.set_rng_state(self._restored["torch"])
        if self._restored["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(self._restored["cuda"])
