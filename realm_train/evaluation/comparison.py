"""Several runs beside each other: every scalar of their reports, with mean and spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from realm_train.evaluation.run import Number


def scalars(report: Mapping[str, Any], prefix: str = "") -> dict[str, Number]:
    """The numbers of a nested report by dotted name; truth values and words are left out."""
    found: dict[str, Number] = {}
    for name, value in report.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{prefix}{name}.")
        elif isinstance(value, float | int) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = value
    return found


def compare(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Scalar → its `values` (None where a run lacks it), `mean`, and sample standard deviation `sd` (None for one)."""
    columns = [scalars({name: value for name, value in report.items() if name != "hardware"}) for report in reports]
    names = list(dict.fromkeys(name for column in columns for name in column))
    table = {}
    for name in names:
        values = [column.get(name) for column in columns]
        mean, sd = mean_and_sd([value for value in values if value is not None])
        table[name] = {"values": values, "mean": mean, "sd": sd}
    return table


def mean_and_sd(values: Sequence[Number]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the latter None for a single value."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def markdown(names: Sequence[str], table: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparison as a Markdown table, one scalar a row."""
    rows = [["", *names, "mean ± sd"], ["---"] * (len(names) + 2)]
    for name, row in table.items():
        rows.append([name, *(short(value) for value in row["values"]), spread(row["mean"], row["sd"])])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def short(value: Number | None) -> str:
    """Four significant figures; a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:d}" if isinstance(value, int) else f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def spread(mean: Number, sd: Number | None) -> str:
    """mean ± sd, as in a paper's table."""
    return short(mean) if sd is None else f"{short(mean)} ± {sd:.2g}"
