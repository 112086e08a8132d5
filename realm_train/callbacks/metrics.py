"""Metrics on disk: one JSON object a logging event in `metrics.jsonl`, complete up to the last event at any moment."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from realm_train.errors import BadInput


class JsonlLogger(Logger):
    """Appends `{"step", "stage", "time", metric: value, ...}` lines to `<folder>/metrics.jsonl` and flushes each.

    A resumed stage continues the file: lines that it is about to write again are dropped first.
    """

    def __init__(self, folder: str | Path, *, stage: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.jsonl"
        self.stage = stage
        self._resumed_at: int | None = None
        self._warned: set[str] = set()

    @property
    def name(self) -> str:
        return self.stage

    @property
    def version(self) -> str:
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file itself."""
        return self.path

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: a run's settings are in its `config.yaml`."""

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        """Drop what this stage wrote beyond `step`, the step of the checkpoint that it resumes from.

        Lines at `step` itself stay until their metrics are logged for it again. Without this call the first event
        that is logged tells where the stage resumes.
        """
        self._resumed_at = step
        self._keep(lambda event: event["stage"] != self.stage or event["step"] <= step)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        values = {name: self._finite(name, value) for name, value in metrics.items() if name != "epoch"}
        if not values:
            return
        step = 0 if step is None else int(step)
        if self._resumed_at is None:
            self.continue_from(step)
        event = {"step": step, "stage": self.stage, "time": round(time.time(), 3), **values}
        if step == self._resumed_at:
            place = (self.stage, step)
            self._keep(lambda old: (old["stage"], old["step"]) != place or not _replaces(event, old))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, allow_nan=False) + "\n")

    def _finite(self, name: str, value: Any) -> float | int | None:
        """The value as a JSON number; what is not finite becomes null, with one warning a metric."""
        value = value.item() if hasattr(value, "item") else value
        if math.isfinite(value):
            return value
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"{name} is {value}: written as null from here on", RuntimeWarning, stacklevel=2)
        return None

    def _keep(self, wanted: Callable[[dict], bool]) -> None:
        """Write the file anew without the events that are not wanted, nor a last line cut off by a kill."""
        if not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        events = [self._event(line, number, cut=number == len(lines)) for number, line in enumerate(lines, 1)]
        kept = [
            line if line.endswith(b"\n") else line + b"\n"
            for line, event in zip(lines, events, strict=True)
            if event is not None and wanted(event)
        ]
        if kept != lines:
            aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            aside.write_bytes(b"".join(kept))
            os.replace(aside, self.path)

    def _event(self, line: bytes, number: int, cut: bool) -> dict | None:
        """The event of a line; None for the last line where a kill cut it off."""
        try:
            event = json.loads(line)
            event["stage"], event["step"] + 0
            return event
        except (ValueError, KeyError, TypeError) as error:
            if cut and not line.endswith(b"\n"):
                return None
            raise BadInput(
                f"{self.path}, line {number}: got {line[:60]!r}, expected an event with step and stage;"
                " mend or move the file, or train in another run folder"
            ) from error


def _replaces(event: dict, old: dict) -> bool:
    """Whether an event is an earlier one of its step written again: a step has one loss, and what some steps leave out
    (the accuracy of what a batch does not hold) may differ."""
    return old.keys() <= event.keys() or ("loss" in old and "loss" in event)
