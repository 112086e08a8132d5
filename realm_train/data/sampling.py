"""Which example comes when: a pure function of (seed, epoch, index), so that any position can be resumed exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from realm_train.batch import Record
from realm_train.errors import BadInput


class Shuffle:
    """An endless stream over `items`: position p is item number p mod n of epoch p div n, each epoch in an order of its own."""

    def __init__(self, items: np.ndarray, seed: int) -> None:
        self.items, self.seed = items, seed
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(len(self.items))

    def __getitem__(self, position: int) -> int:
        epoch, index = divmod(position, len(self.items))
        return int(self.items[self._order(epoch)[index]])

    def __getstate__(self) -> dict:
        return {"items": self.items, "seed": self.seed}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


def example_rng(seed: int, position: int) -> np.random.Generator:
    """The generator of one position's random choices, independent of the shuffle's and of every other position's."""
    return np.random.Generator(np.random.Philox(key=[seed + (1 << 32), position]))


def documents_held_out(documents: np.ndarray, percent: float) -> np.ndarray:
    """Which passages belong to held-out documents: [N] bool. By hash of the document, so a new passage moves no other."""
    if not 0 <= percent < 100:
        raise BadInput(f"heldout_percent: got {percent}, expected at least 0 and less than 100")
    return documents.astype(np.uint64) % np.uint64(10_000) < np.uint64(round(percent * 100))


class StepLoader:
    """Yields the micro-batches of step after step, forever, from `start`; worker processes change nothing but the speed."""

    def __init__(
        self, micro_batches: Callable[[int], Sequence[Record]], *, start: int = 0, workers: int = 0
    ) -> None:
        self.micro_batches, self.start, self.workers = micro_batches, start, workers

    def __iter__(self) -> Iterator[Record]:
        from torch.utils.data import DataLoader

        loader = DataLoader(
            _Steps(self.micro_batches),
            batch_size=None,
            sampler=_Counting(self.start),
            num_workers=self.workers,
            multiprocessing_context="spawn" if self.workers else None,
            persistent_workers=self.workers > 0,
            collate_fn=_as_is,
        )
        for step in loader:
            yield from step


def _as_is(step):
    return step


class _Steps:
    """A map-style data set whose item s is the list of step s's micro-batches."""

    def __init__(self, micro_batches: Callable[[int], Sequence[Record]]) -> None:
        self.micro_batches = micro_batches

    def __getitem__(self, step: int) -> Sequence[Record]:
        return self.micro_batches(step)

    def __len__(self) -> int:
        return 1 << 62


class _Counting:
    """start, start + 1, … without an end: the trainer decides when to stop."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        step = self.start
        while True:
            yield step
            step += 1


def share(step: int, *, batch_size: int, rank: int, world: int) -> range:
    """The positions of `step` that fall to `rank`: the global batch is the same however many ranks share it."""
    local = batch_size // world
    start = step * batch_size + rank * local
    return range(start, start + local)


def check_batch(*, batch_size: int, micro_batch_size: int, world: int) -> int:
    """Micro-batches per step and rank; raises BadInput if the global batch does not divide."""
    if batch_size % (micro_batch_size * world):
        raise BadInput(
            f"batch_size: got {batch_size}, expected a multiple of micro_batch_size x ranks = {micro_batch_size} x {world}"
        )
    return batch_size // (micro_batch_size * world)
