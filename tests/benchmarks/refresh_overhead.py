"""What a fresh index costs the training: steps beside a refresh over steps without one, and the step that swaps.

    python tests/benchmarks/refresh_overhead.py corpus=data/vital steps=140 every=20 rolling_steps=20 rolling_every=140

The quick start's model; after a swap as many held-out sentences as in the quick start are embedded beside the next
steps. In the first run a refresh process encodes on one of the threads, and steps with and without it alternate; in
the second, every step encodes its slice itself. A step lasts from its batch's start to the next one's: all that
callbacks do is in it.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
import torch
from apparatus.report import Report, settings
from apparatus.trial import corpus_at, trained, words_of

from realm_train.callbacks.adoption import Adoption

FEW = 16  # held-out sentences, a batch


@dataclass
class Step:
    """One optimiser step: what went on beside it, its seconds by the clock, those that this process's threads had a
    processor, which other load hardly changes, and the seconds of its parts."""

    kind: str = ""
    seconds: float = 0.0
    worked: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """What there is to see between two steps."""

    time: float
    worked: float
    version: int
    worker: str  # what the worker says that it does
    threads: int


class Clock(pl.Callback):
    """Times every step, and within it the callbacks of the refresh: `boundary`, in it `adopt`, in it `examine`.

    Held-out sentences are taken `times` over while steps are timed, so that the evaluations before and after, which are
    not, cost no more than needed."""

    def __init__(self, threads: int, times: int = 1) -> None:
        self.threads, self.times, self.steps = threads, times, []
        self._now, self._before = Step(), None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.refresh = next(one for one in trainer.callbacks if isinstance(one, Adoption))
        self._time(self.refresh, "boundary")
        self._time(self.refresh, "adopt")
        self._time(self.refresh.heldout, "examine")
        self.few = self.refresh.heldout.batches
        self.refresh.heldout.batches = self.few * self.times

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        if trainer.global_step == trainer.max_steps:
            self.refresh.heldout.batches = self.few

    def _time(self, owner: object, name: str) -> None:
        work = getattr(owner, name)

        def timed(*given: object, **named: object) -> object:
            started = time.perf_counter()
            try:
                return work(*given, **named)
            finally:
                self._now.parts[name] = self._now.parts.get(name, 0.0) + time.perf_counter() - started

        setattr(owner, name, timed)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        moment = self._look()
        if self._before is not None:
            self._now.seconds = moment.time - self._before.time
            self._now.worked = moment.worked - self._before.worked
            self._now.kind = self._kind(self._before, moment, trainer.global_step)
            self.steps.append(self._now)
        self._now, self._before = Step(), moment

    def _look(self) -> Moment:
        heartbeat = self.refresh.snapshots / "heartbeat.json"
        worker = json.loads(heartbeat.read_text())["state"] if heartbeat.exists() else "none"
        return Moment(time.perf_counter(), time.process_time(), self.refresh.version, worker, torch.get_num_threads())

    def _kind(self, before: Moment, after: Moment, step: int) -> str:
        if before.version != after.version:
            return "swap"
        if step == 1 or "starting" in (before.worker, after.worker):
            return "start"
        if self.refresh.plan.beside and step % self.refresh.plan.every == 0:
            return "snapshot"
        if self.steps[-1].kind == "swap":
            return "after swap"
        if before.worker == after.worker == "encoding":
            return "beside"
        idle = before.worker == after.worker and before.threads == after.threads == self.threads
        return "alone" if idle else "between"

    def of(self, kind: str) -> list[Step]:
        """The steps of a kind."""
        return [step for step in self.steps if step.kind == kind]


def median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 4) if values else None


def ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 3) if one and other else None


def beside(clock: Clock) -> dict:
    """Figures of the run with a refresh process."""
    kinds = ("alone", "beside", "snapshot", "swap", "after swap", "between")
    seconds = {kind: median([step.seconds for step in clock.of(kind)]) for kind in kinds}
    parts = {
        "boundary of a step without news": median([s.parts["boundary"] for s in clock.of("alone")]),
        "snapshot": median([s.parts["boundary"] for s in clock.of("snapshot")]),
        "swap": median([s.parts["adopt"] for s in clock.of("swap")]),
        "of it copying the query tower": median([s.parts["examine"] for s in clock.of("swap")]),
    }
    return {
        "refresh": "process",
        "steps": {kind: len(clock.of(kind)) for kind in kinds},
        "seconds a step": seconds,
        "processor seconds a step": {kind: median([step.worked for step in clock.of(kind)]) for kind in kinds},
        "steps a second beside a refresh / alone": ratio(seconds["alone"], seconds["beside"]),
        "seconds of": parts,
        "step that swaps / step beside": ratio(seconds["swap"], seconds["beside"]),
        "step that swaps / the same without the swap": median(
            [step.seconds / (step.seconds - step.parts["adopt"]) for step in clock.of("swap")]
        ),
        "step that snapshots / alone": ratio(seconds["snapshot"], seconds["alone"]),
    }


def rolling(clock: Clock, *, every: int) -> dict:
    """Figures of the run whose steps encode a slice each."""
    steps = clock.of("alone")
    cost = [step.parts["boundary"] for step in steps]
    return {
        "refresh": "rolling",
        "every": every,
        "passages a step": round(clock.refresh.corpus.count / every, 1),
        "steps": len(steps),
        "seconds a step": median([step.seconds for step in steps]),
        "of it encoding": median(cost),
        "step / the same without encoding": median(
            [step.seconds / (step.seconds - spent) for step, spent in zip(steps, cost, strict=True)]
        ),
    }


def main() -> None:
    told = settings(
        corpus="", limit=2000, steps=24, every=8, rolling_steps=6, rolling_every=140, threads=2, heldout=320, out=""
    )
    report = Report("refresh_overhead", told)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        words = words_of(corpus_at(told["corpus"], scratch, limit=told["limit"]))
        words += ["stages=[pretrain]", f"threads={told['threads']}", f"pretrain.heldout={FEW}"]
        clock = Clock(told["threads"], times=told["heldout"] // FEW)
        process = ["refresh=process", f"refresh.every={told['every']}", f"pretrain.steps={told['steps']}"]
        trained(scratch / "process", [*words, *process], clock)
        report.say(**beside(clock))
        clock = Clock(told["threads"])
        roll = ["refresh=rolling", f"refresh.every={told['rolling_every']}", f"pretrain.steps={told['rolling_steps']}"]
        trained(scratch / "rolling", [*words, *roll], clock)
        report.say(**rolling(clock, every=told["rolling_every"]))
    report.write()


if __name__ == "__main__":
    main()
