"""What a person sees while a stage trains: one live table on a terminal, one plain line now and then anywhere else."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console, Group
from rich.live import Live as Screen
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from realm_train.callbacks.alarms import alarms, dead
from realm_train.callbacks.pace import Pace, clock
from realm_train.callbacks.series import Series, number, sparkline

MEAN_OVER = 20
NAMES = {
    "loss": "loss",
    "ict/accuracy": "accuracy",
    "ict/accuracy_kept": "accuracy, sentence kept",
    "ict/accuracy_masked": "accuracy, sentence removed",
    "retrieval/utility": "utility",
    "retrieval/p_null": "p(null)",
    "retrieval/entropy": "entropy",
    "retrieval/score_std": "score std",
    "retrieval/unique_passages": "unique passages",
    "retrieval/leaks": "leaks",
    "index/version": "index version",
    "index/age_steps": "index age",
    "heldout/loss": "held-out loss",
    "heldout/loss_null": "held-out loss, null only",
    "heldout/utility": "held-out utility",
    "heldout/ict_accuracy": "held-out accuracy",
    "throughput/tokens_per_second": "tokens/s",
}
RARE = ("index/version", "index/overlap", "index/refresh", "retrieval/recall", "heldout/")  # not logged at each step


class Live(Callback):
    """Shows progress, an ETA and the health numbers; says once, loudly, when the retriever is dead.

    On a terminal one table is redrawn in place; elsewhere (a file, Slurm, CI) a plain line is printed every `every`
    optimiser steps.
    """

    def __init__(self, stage: str, every: int = 20, console: Console | None = None) -> None:
        self.stage, self.every = stage, every
        self.console = console or Console()
        self.series: dict[str, Series] = {}
        self.pace = Pace()
        self._screen: Screen | None = None
        self._step = self._seen = self._total = 0
        self._drawn = -math.inf
        self._mourned = False
        self._doing = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = self._seen = trainer.global_step
        self._total = total_steps(trainer)
        self.pace.start(time.monotonic())
        if trainer.is_global_zero and self.console.is_terminal:
            self._screen = Screen(console=self.console, auto_refresh=False, get_renderable=self._table)
            self._screen.start(refresh=True)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step != self._step:  # or gradients still accumulate
            self._step = trainer.global_step
            self.pace.step(time.monotonic())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)
        self.pace.pause(time.monotonic())
        self._doing = "evaluating"
        if self._screen:
            self._screen.refresh()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.pace.go_on(time.monotonic())
        self._doing = ""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _look(self, trainer: Trainer) -> None:
        """Take the metrics of the step that has ended, once its last hook has logged them, and show them."""
        if self._step == self._seen or not trainer.is_global_zero:
            return
        self._seen = self._step
        for name, value in trainer.callback_metrics.items():
            if name in NAMES or name.startswith(RARE):
                self.series.setdefault(name, Series(rare=name.startswith(RARE))).add(value)
        if self._due():
            self._mourn()
        self._show()

    def _due(self) -> bool:
        return self._step % self.every == 0 or self._step == self._total

    def _close(self) -> None:
        if self._screen:
            self._screen.refresh()
            self._screen.stop()
            self._screen = None

    def _show(self) -> None:
        if self._screen and time.monotonic() - self._drawn > 0.25:
            self._drawn = time.monotonic()
            self._screen.refresh()
        elif not self.console.is_terminal and self._due():
            self.console.print(self._line(), markup=False, highlight=False, soft_wrap=True)

    def _mourn(self) -> None:
        message = None if self._mourned else dead(self._recent())
        if message:
            self._mourned = True
            self.console.print(message, style="bold white on red", markup=False, soft_wrap=not self.console.is_terminal)

    def _recent(self) -> dict[str, deque[float]]:
        return {name: series.settle().recent for name, series in self.series.items()}

    def _shown(self) -> list[str]:
        return [name for name in NAMES if name in self.series] + sorted(set(self.series) - set(NAMES))

    def _line(self) -> str:
        wrong = alarms(self._recent())
        values = [f"{NAMES.get(name, name)} {number(self.series[name].recent[-1])}" for name in self._shown()]
        percent = f" {self._step / self._total:4.0%}" if self._total else ""
        words = [
            f"{self.stage} {self._step}/{self._total or '?'}{percent}",
            f"{clock(self.pace.elapsed(time.monotonic()))} elapsed, {self._eta()}",
            *values,
            *(f"ALARM {text}" for text in wrong.values()),
        ]
        return " | ".join(words)

    def _eta(self) -> str:
        left = self.pace.left(self._total - self._step) if self._total else None
        return "estimating" if left is None else f"{clock(left)} left"

    def _table(self) -> Group:
        wrong = alarms(self._recent())
        head = Table.grid(padding=(0, 2))
        elapsed = clock(self.pace.elapsed(time.monotonic()))
        head.add_row(
            Text(self.stage, style="bold"),
            ProgressBar(total=self._total or None, completed=self._step, width=32),
            f"{self._step}/{self._total or '?'}",
            f"{elapsed} elapsed, {self._eta()}",
            Text(self._doing, style="yellow"),
        )
        table = Table(
            "", "last", f"mean of {MEAN_OVER}", "since the start", box=None, padding=(0, 2), header_style="dim"
        )
        for column in table.columns[1:3]:
            column.justify = "right"
        for name in self._shown():
            series = self.series[name]
            latest = list(series.recent)[-MEAN_OVER:]
            table.add_row(
                NAMES.get(name, name),
                number(latest[-1]),
                "" if series.rare else number(sum(latest) / len(latest)),
                sparkline(series.trend(), ascii_only=self.console.options.ascii_only),
                style="bold red" if name in wrong else "",
            )
        return Group(head, table, *(Text(f"! {text}", style="bold red") for text in wrong.values()))


def total_steps(trainer: Trainer) -> int:
    """Optimiser steps of the whole stage, 0 where nobody can say."""
    if trainer.max_steps >= 0:
        return trainer.max_steps
    steps = trainer.estimated_stepping_batches
    return int(steps) if math.isfinite(steps) else 0
