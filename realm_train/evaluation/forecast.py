"""What a run will need, as arithmetic: bytes on disk and in memory, and how fresh an index can be kept.

Steps are optimiser steps. An index that another process makes is adopted `lag` steps after its snapshot:

    snapshot        adoption             next snapshot        next adoption
    |---- lag ------|                    |---- lag -----------|
    |-------------- every ---------------|          the oldest that it gets: every + lag
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}  # bytes a number
DECAY = (
    0.87  # of a process's growth from step to step: allocator and kernel caches fill up, measured on the quick start
)


def vector_bytes(count: int, dim: int, dtype: str) -> int:
    """Bytes of [count, dim] vectors."""
    return count * dim * ITEM[dtype]


def index_memory(
    count: int, dim: int, *, rest: str, held: str | None, on_gpu: bool, written: bool, swapped: bool
) -> dict[str, int]:
    """Bytes of an exact index: `private` and `mapped` in the host's memory, and on the `device`.

    Vectors of the dtype that they have at `rest` on disk are mapped on the CPU; what is `written` into becomes private.
    While it is `swapped`, the old version is there beside the new one.
    """
    versions = 2 if swapped else 1
    mapped, held = vector_bytes(count, dim, rest), held or rest
    inside = vector_bytes(count, dim, held) * versions
    if on_gpu:
        return {"private": 0, "mapped": mapped, "device": inside}
    if held != rest:
        return {"private": inside, "mapped": mapped, "device": 0}
    if written:
        return {"private": inside, "mapped": 0, "device": 0}
    return {"private": 0, "mapped": inside, "device": 0}


def still_to_grow(peaks: Sequence[int], *, steps_left: int, decay: float = DECAY) -> int:
    """Bytes by which a peak will still grow, from the peaks after the first few steps: each step adds `decay` times
    what the one before added."""
    if len(peaks) < 2 or steps_left < 1:
        return 0
    step = (peaks[-1] - peaks[0]) / (len(peaks) - 1)
    return round(step * decay * (1 - decay**steps_left) / (1 - decay))


@dataclass(frozen=True)
class Schedule:
    """How fresh the index of a run can be, from what a refresh and a step take.

    `refresh_seconds` is for the whole corpus, from the snapshot to vectors that can be searched; `step_seconds` that of
    a step with nothing beside it, `step_seconds_beside` while another process encodes.
    """

    mode: str
    every: int
    refresh_seconds: float
    step_seconds: float
    step_seconds_beside: float
    poll_seconds: float = 0.5
    adopt_lag: int | None = None

    @property
    def beside(self) -> bool:
        """Whether training goes on while the corpus is encoded by another process."""
        return self.mode in ("process", "job")

    @property
    def shortest_lag(self) -> int:
        """Steps that pass between a snapshot and the index made from it: the youngest an adopted index can be."""
        if not self.beside:
            return 0
        return max(1, math.ceil((self.refresh_seconds + self.poll_seconds) / self.step_seconds_beside))

    @property
    def lag(self) -> int:
        """The index's age at its adoption, in steps; `adopt_lag` makes it longer, or training wait."""
        return self.shortest_lag if self.adopt_lag is None else self.adopt_lag

    @property
    def shortest_every(self) -> int:
        """The shortest interval of refreshes, in steps, that is reached without skipping a snapshot."""
        return self.shortest_lag if self.beside else 1

    @property
    def reached(self) -> bool:
        """Whether every snapshot becomes an index before the next one is due."""
        return self.shortest_every <= self.every

    @property
    def interval(self) -> int:
        """Steps between two adoptions, on average."""
        return self.every if self.reached or self.adopt_lag is not None else self.shortest_every

    @property
    def max_age(self) -> int:
        """The oldest that vectors in use get, in steps. A worker that is late takes the newest snapshot there is, which
        is up to `every` - 1 steps old by then."""
        if not self.beside:
            return self.every
        return self.every + self.lag if self.interval == self.every else self.every - 1 + 2 * self.shortest_lag

    @property
    def mean_step_seconds(self) -> float:
        """Seconds a step, with what the refresh takes from training."""
        cost = self.refresh_seconds / self.every
        if not self.beside:
            return self.step_seconds + cost
        busy = min(1.0, self.shortest_lag / self.every)
        wait = max(0, self.shortest_lag - self.lag) * self.step_seconds_beside / self.every
        return busy * self.step_seconds_beside + (1 - busy) * self.step_seconds + wait


def smaller_plans(schedule: Schedule, *, encoders: int, threads: int | None, mean_length: float) -> list[str]:
    """Plans that fit where `every` cannot be reached, as overrides with a reason; `threads` are a CPU worker's."""
    excess = schedule.shortest_every / schedule.every
    plans = [f"refresh.every={rounded_up(schedule.shortest_every)}"]
    more = math.ceil(encoders * excess)
    plans.append(f"refresh=job with {more} encoders (plan.devices={more})")
    if threads is not None:
        plans.append(f"refresh.threads={math.ceil(threads * excess)} if there are cores to spare, or a GPU")
    cycle = rounded_up(math.ceil(schedule.refresh_seconds / schedule.step_seconds * 4))
    plans.append(f"refresh=rolling refresh.every={cycle}, for steps a quarter longer")
    if mean_length / excess >= 32:
        plans.append(f"passages of {int(mean_length / excess)} instead of {mean_length:.0f} word pieces on average")
    return plans


def rounded_up(steps: int) -> int:
    """The next number of steps with two digits that count: a plan should not sit on the very edge."""
    unit = 10 ** max(0, len(str(steps)) - 2)
    return math.ceil(steps / unit) * unit
