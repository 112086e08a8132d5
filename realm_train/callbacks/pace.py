"""How fast a stage goes, and when it will be done."""

from __future__ import annotations

from collections import deque
from statistics import median


class Pace:
    """How long a stage still takes, from recent steps and from the pauses seen so far."""

    def __init__(self) -> None:
        self._began = self._last = 0.0
        self._steps = 0
        self._recent: deque[float] = deque(maxlen=50)
        self._paused_at: float | None = None
        self._pauses = 0.0

    def start(self, now: float) -> None:
        self._began = self._last = now

    def pause(self, now: float) -> None:
        """An evaluation begins: its time is no step's."""
        self._paused_at = now

    def go_on(self, now: float) -> None:
        if self._paused_at is not None and self._steps:
            self._pauses += now - self._paused_at
        if self._paused_at is not None:
            self._last += now - self._paused_at
            self._paused_at = None

    def step(self, now: float) -> None:
        """One optimiser step is done. The first is not counted: it warms everything up."""
        seconds, self._last = now - self._last, now
        self._steps += 1
        if self._steps == 1:
            return
        usual = median(self._recent) if self._recent else seconds
        if len(self._recent) >= 5 and seconds > 5 * usual:  # a refresh or a checkpoint rather than a step
            self._pauses += seconds - usual
            seconds = usual
        self._recent.append(seconds)

    def elapsed(self, now: float) -> float:
        """Wall clock since the start, in seconds, pauses included."""
        return now - self._began

    def left(self, steps: int) -> float | None:
        """Seconds that `steps` more will take if pauses keep their share; None while there is too little to tell."""
        if len(self._recent) < 5:
            return None
        return steps * (sum(self._recent) / len(self._recent) + self._pauses / self._steps)


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
