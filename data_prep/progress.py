"""One progress bar for all steps: done of total with the time that is left, or the rate where no total is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

Update = Callable[[int, int | None], None]


@contextmanager
def progress(label: str, *, unit: str) -> Iterator[Update]:
    """A bar on stderr; call what it yields with the amount done and the total, or None where that is unknown."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}")]
    # the time left is told from the last two minutes, not from a first second that was all start-up
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=120) as bar:
        number = bar.add_task(label, total=None, amount="")

        def update(done: int, total: int | None) -> None:
            bar.update(number, completed=done, total=total)
            task = bar.tasks[0]
            bar.update(number, amount=amount(done, total, unit, seconds=task.elapsed, left=task.time_remaining))

        yield update


def amount(done: int, total: int | None, unit: str, *, seconds: float | None, left: float | None) -> str:
    """What the bar says: "1,200 of 6,000 documents, 0:00:40 left" or "1,200 documents, 300 a second"."""
    scale, name = (1e6, "MB") if unit == "bytes" else (1, unit)
    if total is None:
        return f"{done / scale:,.0f} {name}, {done / scale / max(seconds or 0, 1e-3):,.0f} a second"
    said = f"{done / scale:,.0f} of {total / scale:,.0f} {name}"
    return said if left is None or done >= total else f"{said}, {timedelta(seconds=round(left))} left"
