"""Which 64-bit hashes were seen before: eight bytes each, however many there are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


class SeenHashes:
    """A set of 64-bit integers: a sorted array, and a small Python set of the newest that is merged into it."""

    def __init__(self, newest: int = 1_000_000) -> None:
        self._sorted = np.empty(0, dtype=np.int64)
        self._new: set[int] = set()
        self._newest = newest

    def first(self, hashes: Iterable[int]) -> np.ndarray:
        """For each hash whether this is its first time ever: bool [N]; all of them are remembered."""
        hashes = np.asarray(hashes, dtype=np.int64)
        old = np.zeros(len(hashes), dtype=bool)
        if len(self._sorted):
            where = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
            old = self._sorted[where] == hashes
        for position, value in enumerate(hashes.tolist()):
            if not old[position]:
                old[position] = value in self._new
                self._new.add(value)
        if len(self._new) >= self._newest:
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._new, dtype=np.int64)]))
            self._new.clear()
        return ~old
