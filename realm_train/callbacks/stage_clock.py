"""What a stage takes, over all the processes that it was trained by."""

from __future__ import annotations

import time
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from realm_train.callbacks.provenance import stage_done


class StageClock(Callback):
    """Notes a stage's seconds and steps when it ends; the time is kept in checkpoints, so a resumed stage counts both
    parts (what was lost between the last checkpoint and a kill is not counted)."""

    def __init__(self, folder: str | Path, *, stage: str) -> None:
        self.folder = Path(folder)
        self.stage = stage
        self._before = 0.0
        self._since: float | None = None

    @property
    def state_key(self) -> str:
        return f"StageClock[{self.stage}]"

    @property
    def seconds(self) -> float:
        """Wall clock spent in this stage, over all its processes."""
        return self._before + (0.0 if self._since is None else time.monotonic() - self._since)

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self._before = state_dict["seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            stage_done(self.folder, self.stage, seconds=self.seconds, steps=trainer.global_step)
