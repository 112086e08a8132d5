"""Line charts as inline SVG: ticks at round numbers, lines labelled where they end, values on hover, no script.

Colours, fonts and the dark scheme come from the page's style sheet, by class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Number = float | int
Point = tuple[Number, Number]

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 92, 20, 34
MOST_POINTS, MOST_HOVERS = 400, 48


@dataclass(frozen=True)
class Line:
    """One curve: `faint` is noise behind a smoothed one (unlabelled), `dots` are few measurements, joined."""

    name: str
    points: Sequence[Point]
    colour: int = 1
    kind: Literal["line", "faint", "dots"] = "line"


def smooth(points: Sequence[Point], share: float = 0.06) -> list[Point]:
    """Centred moving average over a window of `share` of the points (at least 5), narrower near both ends."""
    half = max(2, round(len(points) * share / 2))
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    averaged = []
    for at, (step, _) in enumerate(points):
        reach = min(half, at, len(points) - 1 - at)
        averaged.append((step, (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)))
    return averaged


def ticks(low: Number, high: Number, count: int = 5) -> list[float]:
    """Round numbers within [low, high], about `count` of them."""
    if not high > low:
        return [float(low)]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = size * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    note: str = "",
    marks: Sequence[tuple[Number, str]] = (),
    floor: Number | None = None,
    ceiling: Number | None = None,
    zero: bool = False,
) -> str:
    """A titled figure, or nothing where no line has a point.

    `marks` are vertical lines (step, label); `floor` and `ceiling` are values that the axis must reach; `zero` draws
    the line of no effect.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    frame = Frame.around(
        [point for line in lines for point in line.points], marks, (floor, ceiling, 0 if zero else None)
    )
    drawn = [*frame.axes(), *frame.verticals(marks)]
    if zero:
        drawn.append(
            f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{frame.y(0):.1f}" y2="{frame.y(0):.1f}"/>'
        )
    drawn += [frame.curve(line) for line in lines] + [frame.hovers(line) for line in lines] + frame.labels(lines)
    caption = f"<figcaption><b>{escape(title)}</b>{f' <span>{escape(note)}</span>' if note else ''}</figcaption>"
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg>'
    return f'<figure class="chart">{caption}{svg}</figure>'


@dataclass(frozen=True)
class Frame:
    """The mapping from values to pixels, and what is drawn with it."""

    x0: float
    x1: float
    y0: float
    y1: float

    @classmethod
    def around(
        cls, points: Sequence[Point], marks: Sequence[tuple[Number, str]], reach: Sequence[Number | None]
    ) -> Frame:
        """A frame that holds all points with a little air above and below, and the values of `reach`."""
        xs = [float(x) for x, _ in points] + [float(x) for x, _ in marks]
        ys = [float(y) for _, y in points] + [float(y) for y in reach if y is not None]
        low, high = min(ys), max(ys)
        air = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
        bounds = [float(y) for y in reach if y is not None]
        return cls(
            x0=min(xs),
            x1=max(xs) if max(xs) > min(xs) else min(xs) + 1,
            y0=low if low in bounds else low - air,
            y1=high if high in bounds and high > low else high + air,
        )

    def x(self, value: Number) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: Number) -> float:
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> list[str]:
        """Horizontal grid lines with values, steps below."""
        drawn = []
        for value in ticks(self.y0, self.y1):
            y = self.y(value)
            drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            drawn.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{label(value)}</text>')
        for value in ticks(self.x0, self.x1):
            drawn.append(
                f'<text class="tick mid" x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 18}">{label(value)}</text>'
            )
        drawn.append(f'<text class="tick" x="{WIDTH - RIGHT + 10}" y="{HEIGHT - BOTTOM + 18}">step</text>')
        return drawn

    def verticals(self, marks: Sequence[tuple[Number, str]]) -> list[str]:
        """Thin lines at the marks; a label is left out where it would run into the one before."""
        drawn, free = [], -math.inf
        for step, name in marks:
            x = self.x(step)
            drawn.append(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
                f"<title>{escape(name)} at step {step}</title></line>"
            )
            if x > free:
                drawn.append(f'<text class="mark-name mid" x="{x:.1f}" y="{TOP - 6}">{escape(name)}</text>')
                free = x + 8 * len(name)
        return drawn

    def curve(self, line: Line) -> str:
        """The polyline, thinned out to what a screen can show, with dots where they are measurements."""
        points = thinned(line.points, MOST_POINTS)
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        drawn = f'<polyline class="{line.kind} c{line.colour}" points="{path}"/>'
        if line.kind == "dots" or len(points) == 1:
            drawn += "".join(
                f'<circle class="dot c{line.colour}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3.5"/>'
                for x, y in points
            )
        return drawn

    def hovers(self, line: Line) -> str:
        """Invisible discs that say a value when pointed at."""
        if line.kind == "faint":
            return ""
        return "".join(
            f'<circle class="hover" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="8">'
            f"<title>{escape(line.name)} {y:.4g} at step {x}</title></circle>"
            for x, y in thinned(line.points, MOST_HOVERS)
        )

    def labels(self, lines: Sequence[Line]) -> list[str]:
        """Name and last value of each curve beside its end, moved apart where they would overlap."""
        ends = sorted(
            ((self.y(line.points[-1][1]), line) for line in lines if line.kind != "faint"), key=lambda e: e[0]
        )
        places = apart([y for y, _ in ends], gap=26, low=TOP + 8, high=HEIGHT - BOTTOM - 8)
        return [
            f'<text class="name c{line.colour}" x="{WIDTH - RIGHT + 10}" y="{y:.1f}">{escape(line.name)}'
            f'<tspan class="value" x="{WIDTH - RIGHT + 10}" dy="13">{label(line.points[-1][1])}</tspan></text>'
            for y, (_, line) in zip(places, ends, strict=True)
        ]


def apart(places: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Sorted places moved down, then up, until neighbours are `gap` apart and all lie in [low, high] if they can."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, low, moved[-1] + gap if moved else low))
    limit = high
    for at in reversed(range(len(moved))):
        moved[at] = min(moved[at], limit)
        limit = moved[at] - gap
    return moved


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` of the points, evenly taken, first and last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(at * (len(points) - 1) / (most - 1))] for at in range(most)]


def label(value: Number) -> str:
    """A number as short as a tick allows."""
    if value and abs(value) >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
