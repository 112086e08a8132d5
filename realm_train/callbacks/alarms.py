"""What the health numbers of a retriever should never show, and what to do when they do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import pstdev

SOON, LATE = 20, 100  # values behind a red line, and behind calling the retriever dead
NULL_WINS, COLLAPSED, FLAT = 0.95, 0.02, 1e-3  # p(null), entropy in nats, spread of scores

REMEDY = (
    "It learns nothing from here on: the gradient to a score is posterior minus prior, and it has vanished."
    " Stop the run. Warm the retriever up for longer (stage ict), check that recall@20 on held-out questions beats"
    " chance before pretraining starts, lower the learning rate or the score scale, and check that masked spans can"
    " be answered from other passages at all."
)


def alarms(recent: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Metric → what is wrong with it, judged by its latest values (newest last)."""
    found = {}
    if (loss := _last(recent, "loss", 1)) and not math.isfinite(loss[0]):
        found["loss"] = f"the loss is {loss[0]}"
    if (p_null := _mean(recent, "retrieval/p_null", SOON)) is not None and p_null > NULL_WINS:
        found["retrieval/p_null"] = f"p(null) {p_null:.2f}: the reader ignores what is retrieved"
    if (utility := _mean(recent, "retrieval/utility", 50)) is not None:
        error = pstdev(_last(recent, "retrieval/utility", 50)) / math.sqrt(50)
        if utility < -2 * error:
            found["retrieval/utility"] = (
                f"utility {utility:+.3f} ± {error:.3f} over 50 steps: passages harm more than they help"
            )
    if (entropy := _mean(recent, "retrieval/entropy", SOON)) is not None and entropy < COLLAPSED:
        found["retrieval/entropy"] = f"entropy {entropy:.3f}: one passage takes all of p(z|x)"
    if (leaks := sum(filter(math.isfinite, recent.get("retrieval/leaks", ())))) > 0:
        found["retrieval/leaks"] = f"{leaks:g} leaks: a question was given the passage that it was cut from"
    return found


def dead(recent: Mapping[str, Sequence[float]]) -> str | None:
    """Why the retriever can learn no more and what to do, or None while it lives (it takes 100 values to say)."""
    p_null = _mean(recent, "retrieval/p_null", LATE)
    entropy = _mean(recent, "retrieval/entropy", LATE)
    spread = _mean(recent, "retrieval/score_std", LATE)
    if p_null is not None and p_null > NULL_WINS:
        reason = f"p(null) was {p_null:.3f} over the last {LATE} steps: the null passage has won"
    elif entropy is not None and entropy < COLLAPSED:
        reason = f"the entropy of p(z|x) was {entropy:.4f} nats over the last {LATE} steps: it has collapsed"
    elif spread is not None and spread < FLAT:
        reason = f"the scores' standard deviation was {spread:.1e} over the last {LATE} steps: all passages look alike"
    else:
        return None
    return f"THE RETRIEVER IS DEAD: {reason}. {REMEDY}"


def _last(recent: Mapping[str, Sequence[float]], metric: str, count: int) -> list[float]:
    values = recent.get(metric, ())
    return list(islice(values, max(len(values) - count, 0), None)) if len(values) >= count else []


def _mean(recent: Mapping[str, Sequence[float]], metric: str, count: int) -> float | None:
    """Mean of the last `count` values; None where there are fewer, or where one is not finite."""
    values = _last(recent, metric, count)
    return sum(values) / count if values and all(map(math.isfinite, values)) else None
