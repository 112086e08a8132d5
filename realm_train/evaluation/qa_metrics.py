"""The measures of question answering, a value for each question, and what they come to over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from realm_train.evaluation.bootstrap import Resamples, difference, interval
from realm_train.evaluation.calibration import reliability

CUTOFFS = (1, 5, 20, 100)
DIGITS = 6

Measures = dict[str, Float[np.ndarray, " Q"]]
"""Name of a metric -> its value for every question."""


def reading_measures(exact: Sequence[bool], f1: Sequence[float]) -> Measures:
    """`qa/exact_match` and `qa/f1`."""
    return {"qa/exact_match": np.array(exact, dtype=np.float64), "qa/f1": np.array(f1, dtype=np.float64)}


def retrieval_measures(hits: Sequence[Sequence[bool]], *, k: int) -> Measures:
    """`qa/recall@{cutoff}` for the cutoffs up to `k`: one of the so many best passages holds an answer."""
    return {
        f"qa/recall@{cutoff}": np.array([any(row[:cutoff]) for row in hits], dtype=np.float64)
        for cutoff in CUTOFFS
        if cutoff <= k
    }


def summarise(systems: Mapping[str, Measures], resamples: Resamples) -> dict[str, dict[str, Any]]:
    """Every metric of every system as `mean`, `low`, `high`, and as its `difference` from the first system's, with
    interval and p-value, where that has it too."""
    names = [(key, metric) for key, measures in systems.items() for metric in measures]
    values = np.stack([systems[key][metric] for key, metric in names])
    over_resamples = resamples.means(values)
    columns = dict(zip(names, over_resamples.T, strict=True))
    first = next(iter(systems))
    found: dict[str, dict[str, Any]] = {key: {} for key in systems}
    for (key, metric), column, own in zip(names, over_resamples.T, values, strict=True):
        low, high = interval(column)
        found[key][metric] = {"mean": short(own.mean()), "low": short(low), "high": short(high)}
        if key != first and metric in systems[first]:
            observed = float((own - systems[first][metric]).mean())
            found[key][metric]["difference"] = {
                name: short(value)
                for name, value in vars(difference(column, columns[first, metric], observed=observed)).items()
            }
    return found


def calibration(probabilities: Float[np.ndarray, " Q"], happened: Bool[np.ndarray, " Q"]) -> dict[str, Any]:
    """A reliability diagram in plain values; `error` is the expected calibration error."""
    found = reliability(probabilities, happened)
    return {
        "error": short(found.error),
        "mean_p": short(probabilities.mean()),
        "observed": short(happened.mean()),
        "bins": [{name: short(value) for name, value in vars(one).items()} for one in found.bins],
    }


def short(value: Any) -> Any:
    """Numbers to six significant digits: more would change with the machine; anything else as it is."""
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}")
    return value
