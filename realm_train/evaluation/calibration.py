"""Is p(z|x) what it says: of the passages that the retriever is 80% sure of, do 80% hold an answer?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Questions whose probability is in (low, high], the first bin with its low end."""

    low: float
    high: float
    count: int
    mean_p: float | None  # None: the bin is empty
    observed: float | None


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram, and the expected calibration error (Guo et al. 2017, equation 3)."""

    bins: tuple[Bin, ...]
    error: float


def reliability(
    probabilities: Float[np.ndarray, " Q"], happened: Bool[np.ndarray, " Q"], *, bins: int = BINS
) -> Reliability:
    """Said against seen, in bins of equal width; the error is the mean of their distance, over questions."""
    places = np.clip(np.ceil(probabilities * bins) - 1, 0, bins - 1).astype(np.int64)
    found = tuple(
        _bin(number, bins, probabilities[places == number], happened[places == number]) for number in range(bins)
    )
    weighted = (one.count * abs(one.mean_p - one.observed) for one in found if one.count)
    return Reliability(found, float(sum(weighted)) / max(1, len(probabilities)))


def _bin(number: int, bins: int, probabilities: np.ndarray, happened: np.ndarray) -> Bin:
    ends = number / bins, (number + 1) / bins
    if not len(probabilities):
        return Bin(*ends, 0, None, None)
    return Bin(*ends, len(probabilities), float(probabilities.mean()), float(happened.mean()))
