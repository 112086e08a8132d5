"""How a run's index is kept fresh: the refresh group of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from realm_train.errors import BadInput

MODES = ("inline", "process", "job", "rolling")
POLICIES = ("warn", "block", "fail")


@dataclass(frozen=True)
class RefreshPlan:
    """The corpus is encoded anew every `every` steps, in one of four ways.

    inline   training waits for it
    process  a process on this node, which the trainer starts, encodes a snapshot while training goes on
    job      the same work by `python -m realm_train.refresh run=…`, started by the user on any node
    rolling  no other process: every step encodes the next 1/`every` of the corpus with the live weights

    `device` and `threads` are the worker's. A worker on the CPU takes its threads from a trainer on the CPU while it
    encodes: with more threads than cores both would wait for each other at every product.

    `adopt_lag` swaps exactly so many steps after the snapshot, waiting if need be: then two runs give the same losses.
    `write_back` puts the vectors of the candidates that a step has embedded into the index at once. An index older than
    `max_age_steps` makes training warn, block (wait for a younger one) or fail. A worker that dies is started again
    after `backoff_seconds`, twice as long each time, `restarts` times at most without a version in between.
    """

    mode: Literal["inline", "process", "job", "rolling"] = "process"
    every: int = 500
    keep: int = 3
    dtype: str = "float32"
    shard_size: int = 4096
    device: str = "cpu"
    threads: int = 1
    final: bool = True
    write_back: bool = False
    adopt_lag: int | None = None
    max_age_steps: int | None = None
    on_max_age: Literal["warn", "block", "fail"] = "warn"
    restarts: int = 5
    backoff_seconds: float = 5.0
    patience_seconds: float = 3600.0

    def __post_init__(self) -> None:
        _expect_one_of("refresh.mode", self.mode, MODES)
        _expect_one_of("refresh.on_max_age", self.on_max_age, POLICIES)
        if self.every < 1:
            raise BadInput(f"refresh.every: got {self.every}, expected at least 1 step")
        self._check_lag()
        self._check_age()

    def _check_lag(self) -> None:
        if self.adopt_lag is None:
            return
        if not self.beside:
            raise BadInput(f"refresh.adopt_lag: got {self.adopt_lag} with refresh.mode={self.mode}, which has no lag")
        if not 1 <= self.adopt_lag <= self.every:
            raise BadInput(
                f"refresh.adopt_lag: got {self.adopt_lag}, expected 1 to refresh.every={self.every}: a version must be"
                " adopted before the next snapshot is due, or one of the two would be skipped"
            )

    def _check_age(self) -> None:
        if self.max_age_steps is not None and self.beside and self.max_age_steps <= self.every:
            raise BadInput(
                f"refresh.max_age_steps: got {self.max_age_steps}, expected more than refresh.every={self.every}:"
                " an index is that old before the next snapshot is even taken"
            )

    @property
    def beside(self) -> bool:
        """Whether another process encodes, while training goes on."""
        return self.mode in ("process", "job")


def _expect_one_of(key: str, got: str, options: tuple[str, ...]) -> None:
    if got not in options:
        raise BadInput(f"{key}: got {got!r}, expected {', '.join(map(repr, options[:-1]))} or {options[-1]!r}")
