"""A few real steps of a stage in a temporary folder: how long one takes, and what the process holds while it does."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from realm_train.evaluation.footprint import Watch, footprint, forget_peak


@dataclass(frozen=True)
class Rehearsal:
    """Seconds a step (median of those after the first), and the process's memory in bytes: its peak, its peak after
    each step, and on the GPU the most that tensors took and that the allocator held for them."""

    step_seconds: float
    peak: int
    peaks: tuple[int, ...]
    gpu_allocated: int = 0
    gpu_reserved: int = 0


def rehearse(stage: Callable[[], None], *, metrics: Path, name: str) -> Rehearsal:
    """Runs a stage that writes its steps into `metrics` as training does."""
    forget_peak()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with Watch() as watch:
        stage()
    times = step_times(metrics, name)
    peaks = tuple(watch.at(moment) for moment in times)
    return Rehearsal(
        step_seconds=median_gap(times),
        peak=max(*peaks, footprint().get("peak", 0)),  # the kernel's count is off by some pages
        peaks=peaks,
        gpu_allocated=torch.cuda.max_memory_allocated() if on_gpu else 0,
        gpu_reserved=torch.cuda.max_memory_reserved() if on_gpu else 0,
    )


def step_times(metrics: Path, stage: str) -> list[float]:
    """When each optimiser step of a stage was logged."""
    events = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
    return [event["time"] for event in events if event["stage"] == stage and "loss" in event]


def median_gap(times: Sequence[float]) -> float:
    """The median of the differences between neighbours."""
    return statistics.median(later - earlier for earlier, later in zip(times, times[1:], strict=False))


def seconds_of(work: Callable[[], object], *, rounds: int = 3) -> float:
    """The fastest of some rounds."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
