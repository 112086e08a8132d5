"""How sure a mean over questions is, and whether two systems differ: the paired bootstrap over questions.

One set of resamples serves all systems and all measures, so that a difference is always taken between two systems on
the very same questions (Efron and Tibshirani 1993, chapters 13 and 16).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from realm_train.errors import BadInput

BLOCK = 1 << 23  # draws that are in memory at once
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """The mean of a system minus that of another, its 95% interval, and the two-sided p-value of "no difference"."""

    mean: float
    low: float
    high: float
    p: float


class Resamples:
    """Resamples of `questions` questions, drawn with replacement; a pure function of `seed`."""

    def __init__(self, questions: int, *, draws: int = 10_000, seed: int = 0) -> None:
        if questions < 1 or draws < 1:
            raise BadInput(f"bootstrap: got {questions} questions and {draws} draws, expected at least one of each")
        self.questions, self.draws, self.seed = questions, draws, seed

    def means(self, values: Float[np.ndarray, "S Q"]) -> Float[np.ndarray, "R S"]:
        """The mean of each of S measures over each resample."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, self.questions]))
        block = max(1, BLOCK // self.questions)
        parts = []
        for start in range(0, self.draws, block):
            counts = self._counts(rng, min(block, self.draws - start))
            parts.append(counts @ values.T / self.questions)
        return np.concatenate(parts)

    def _counts(self, rng: np.random.Generator, rows: int) -> Float[np.ndarray, "R Q"]:
        """How often each question is in each of `rows` resamples."""
        drawn = rng.integers(self.questions, size=(rows, self.questions))
        flat = (drawn + np.arange(rows)[:, None] * self.questions).ravel()
        return np.bincount(flat, minlength=rows * self.questions).reshape(rows, -1).astype(np.float64)


def interval(means: Float[np.ndarray, " R"]) -> tuple[float, float]:
    """The percentile interval of a mean over resamples."""
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def difference(means: Float[np.ndarray, " R"], against: Float[np.ndarray, " R"], *, observed: float) -> Difference:
    """The difference of two measures over the same resamples; `observed` is that over the questions as they are.

    The p-value counts the resamples on the other side of zero, twice; it is never below 2 / (R + 1), for R resamples
    can show no more.
    """
    differences = means - against
    other_side = min((differences <= 0).sum(), (differences >= 0).sum())
    p = min(1.0, 2 * (int(other_side) + 1) / (len(differences) + 1))
    return Difference(observed, *interval(differences), p)
