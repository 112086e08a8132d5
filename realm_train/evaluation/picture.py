"""A chart as an SVG file of its own, light and dark, for a README or a talk."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from realm_train.evaluation.chart import HEIGHT, WIDTH, Line, drawing
from realm_train.evaluation.style import STYLE

SIZE = "svg text{font-size:12px}"  # also where a page would have larger letters, as on a phone
HEAD, BESIDE, FOOT = 66, 60, 8  # above the chart for title and note, beside it for long names, and below


def picture(title: str, lines: Sequence[Line], *, note: str = "", **axes: Any) -> str:
    """The drawing of `lines` under its title, whole in one SVG document; `axes` are those of `chart.drawing`."""
    width, height = WIDTH + BESIDE, HEAD + HEIGHT + FOOT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' style="width:{width}px;height:{height}px" role="img" aria-label="{escape(title)}">'
        f"<style>{STYLE}{SIZE}</style>"
        f'<rect width="{width}" height="{height}" style="fill:var(--card)"/>'
        f'<text x="18" y="30" style="font-size:16px;font-weight:600;fill:var(--ink)">{escape(title)}</text>'
        f'<text x="18" y="50">{escape(note)}</text>'
        f'<g transform="translate(0,{HEAD})">{drawing(lines, **axes)}</g></svg>\n'
    )
