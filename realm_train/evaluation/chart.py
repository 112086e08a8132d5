"""Line charts as inline SVG: ticks at round numbers, lines labelled where they end, values on hover, no script.

Colours, fonts and the dark scheme come from the page's style sheet, by class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from realm_train.evaluation.run import Number

Point = tuple[Number, Number]

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 100, 20, 34
MOST_POINTS, MOST_HOVERS = 400, 48


@dataclass(frozen=True)
class Line:
    """One curve: `faint` is noise behind a smoothed one (unlabelled), `dots` are few measurements, joined; with
    `dashes` it differs from another of its colour."""

    name: str
    points: Sequence[Point]
    colour: int = 1
    kind: Literal["line", "faint", "dots", "dashes"] = "line"


def smooth(points: Sequence[Point], share: float = 0.06) -> list[Point]:
    """Moving average over a window of `share` of the points (at least 5), cut off at both ends of the curve."""
    half = max(2, round(len(points) * share / 2))
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    averaged = []
    for at, (step, _) in enumerate(points):
        first, last = max(at - half, 0), min(at + half + 1, len(points))
        averaged.append((step, (sums[last] - sums[first]) / (last - first)))
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


def chart(title: str, lines: Sequence[Line], *, note: str = "", **axes: Any) -> str:
    """A titled figure for a page, or nothing where no line has a point; `axes` are those of `drawing`."""
    drawn = drawing(lines, **axes)
    if not drawn:
        return ""
    caption = f"<figcaption><b>{escape(title)}</b>{f' <span>{escape(note)}</span>' if note else ''}</figcaption>"
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{drawn}</svg>'
    return f'<figure class="chart">{caption}{svg}</figure>'


def drawing(
    lines: Sequence[Line],
    *,
    marks: Sequence[tuple[Number, str]] = (),
    floor: Number | None = None,
    ceiling: Number | None = None,
    zero: bool = False,
    until: Number | None = None,
    least: Number = 0,
) -> str:
    """Axes and curves, WIDTH x HEIGHT, or nothing where no line has a point.

    `marks` are vertical lines (step, label); `floor` and `ceiling` are values that the axis must reach; `zero` draws
    the line of no effect; the steps go to `until` at least, and the values
    span at least `least`, so that a hair's breadth does not look like a gap.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    frame = Frame.around(
        [point for line in lines for point in line.points],
        steps=[step for step, _ in marks] + ([] if until is None else [until]),
        values=[value for value in (floor, ceiling, 0 if zero else None) if value is not None],
        least=least,
    )
    drawn = [*frame.axes(), *frame.verticals(marks)]
    if zero:
        drawn.append(
            f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{frame.y(0):.1f}" y2="{frame.y(0):.1f}"/>'
        )
    drawn += [frame.curve(line) for line in lines] + [frame.hovers(line) for line in lines] + frame.labels(lines)
    return "".join(drawn)


@dataclass(frozen=True)
class Frame:
    """The mapping from values to pixels, and what is drawn with it."""

    x0: float
    x1: float
    y0: float
    y1: float

    @classmethod
    def around(
        cls, points: Sequence[Point], *, steps: Sequence[Number], values: Sequence[Number], least: Number
    ) -> Frame:
        """A frame that holds all points with a little air above and below, and reaches these steps and values."""
        xs = [float(x) for x in (*(x for x, _ in points), *steps)]
        ys = [float(y) for y in (*(y for _, y in points), *values)]
        low, high = min(ys), max(ys)
        air = max(0.06 * (high - low), (least - (high - low)) / 2) or 0.05 * abs(high) or 0.5
        return cls(
            x0=min(xs),
            x1=max(xs) if max(xs) > min(xs) else min(xs) + 1,
            y0=low if low in values else low - air,
            y1=high if high in values and high > low else high + air,
        )

    def x(self, value: Number) -> Number:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: Number) -> Number:
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> list[str]:
        """Horizontal grid lines with values, steps below."""
        drawn = []
        heights = ticks(self.y0, self.y1)
        for value in heights:
            y = self.y(value)
            drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            drawn.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{tick(value, heights)}</text>')
        for value in ticks(self.x0, self.x1):
            drawn.append(
                f'<text class="tick mid" x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 18}">{label(value)}</text>'
            )
        drawn.append(f'<text class="tick" x="{WIDTH - RIGHT + 22}" y="{HEIGHT - BOTTOM + 18}">step</text>')
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
        places = apart([y for y, _ in ends], gap=29, low=TOP + 8, high=HEIGHT - BOTTOM - 16)
        return [
            f'<text class="name c{line.colour}" x="{WIDTH - RIGHT + 10}" y="{y:.1f}">{escape(line.name)}'
            f'<tspan class="value" x="{WIDTH - RIGHT + 10}" dy="1.1em">{label(line.points[-1][1])}</tspan></text>'
            for y, (_, line) in zip(places, ends, strict=True)
        ]


def apart(places: Sequence[Number], *, gap: Number, low: Number, high: Number) -> list[Number]:
    """Sorted places moved down, then up, until neighbours are `gap` apart and all lie in [low, high] if they can."""
    moved: list[Number] = []
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


def tick(value: float, others: Sequence[float]) -> str:
    """A tick's number, with as many decimals as tell it from its neighbours."""
    step = others[1] - others[0] if len(others) > 1 else abs(value) or 1.0
    if abs(value) >= 10_000:
        return label(value)
    decimals = next((count for count in range(7) if abs(step * 10**count - round(step * 10**count)) < 1e-6), 7)
    return f"{value:.{decimals}f}"


def label(value: Number) -> str:
    """A number in three figures."""
    if value and abs(value) >= 10_000:
        return f"{value / 1000:.4g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
