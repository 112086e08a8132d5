"""A metric's values while a stage trains: the latest exactly, all of them as a line of bounded length."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

TREND_WIDTH = 24


class Series:
    """One metric's values: the last 200 as they are, all of them as a trend of bounded length.

    Values are kept as they come and turned into floats when they are looked at, so that a GPU is not awaited at each
    step. A rare metric is seen at every step but counts only when it changes.
    """

    def __init__(self, *, rare: bool = False) -> None:
        self.recent: deque[float] = deque(maxlen=200)
        self.rare = rare
        self._waiting: list[Any] = []
        self._means: list[float] = []
        self._size, self._sum, self._count = 1, 0.0, 0

    def add(self, value: Any) -> None:
        """Take one value, a number or a tensor of one."""
        self._waiting.append(value)

    def settle(self) -> Series:
        """Count everything added so far."""
        for value in map(float, self._waiting):
            if not (self.rare and self.recent and value == self.recent[-1]):
                self.recent.append(value)
                self._spread(value)
        self._waiting.clear()
        return self

    def _spread(self, value: float) -> None:
        """Means over buckets of equal size; when they are too many, neighbours are joined."""
        if not math.isfinite(value):
            return
        self._sum, self._count = self._sum + value, self._count + 1
        if self._count == self._size:
            self._means.append(self._sum / self._count)
            self._sum, self._count = 0.0, 0
        if len(self._means) == 2 * TREND_WIDTH:
            self._means = [(a + b) / 2 for a, b in zip(self._means[::2], self._means[1::2], strict=True)]
            self._size *= 2

    def trend(self) -> list[float]:
        """At most TREND_WIDTH means over equal parts of the history, oldest first."""
        means = self._means
        if len(means) <= TREND_WIDTH:
            return list(means)
        edges = [round(part * len(means) / TREND_WIDTH) for part in range(TREND_WIDTH + 1)]
        return [sum(means[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]


def number(value: float) -> str:
    """Four significant figures, counts as they are."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):d}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def sparkline(values: Sequence[float], *, ascii_only: bool = False) -> str:
    """A character a value, lowest to highest; empty for no values."""
    marks = "_.-=+*#@" if ascii_only else "▁▂▃▄▅▆▇█"
    low, high = min(values, default=0.0), max(values, default=0.0)
    scale = (len(marks) - 1) / (high - low) if high > low else 0.0
    return "".join(marks[round((value - low) * scale)] for value in values)
