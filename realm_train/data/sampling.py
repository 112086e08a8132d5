"""Which example comes when: a pure function of (seed, epoch, index), so that any position can be resumed exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Protocol, runtime_checkable

import numpy as np

from realm_train.batch import Record
from realm_train.errors import BadInput


class Shuffle:
    """An endless stream over `items`: position p is item p mod n of epoch p div n, and every epoch has its order."""

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
    """Which passages belong to held-out documents: [N] bool. By hash of the document: a new one moves no other."""
    if not 0 <= percent < 100:
        raise BadInput(f"heldout_percent: got {percent}, expected at least 0 and less than 100")
    return documents.astype(np.uint64) % np.uint64(10_000) < np.uint64(round(percent * 100))


@runtime_checkable
class Examples(Protocol):
    """What a step is made of: a function of positions."""

    def micro_batches(self, positions: Sequence[int], size: int) -> Sequence[Record]:
        """The examples at `positions` in batches of `size`."""
        ...


class StepLoader:
    """Yields the micro-batches of step after step, forever, from step `start`.

    `batch_size` is the global batch of an optimiser step: it is the same examples however many ranks, micro-batches and
    worker processes share it. Raises BadInput if it does not divide.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        micro_batch_size: int,
        start: int = 0,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size % (micro_batch_size * world):
            raise BadInput(
                f"batch_size: got {batch_size}, expected a multiple of micro_batch_size x ranks ="
                f" {micro_batch_size} x {world}"
            )
        self.steps = _Steps(examples, batch_size // world, micro_batch_size, rank, world)
        self.start, self.workers = start, workers

    def __iter__(self) -> Iterator[Record]:
        from torch.utils.data import DataLoader

        loader = DataLoader(
            self.steps,
            batch_size=None,
            sampler=_Counting(self.start),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            multiprocessing_context="spawn" if self.workers else None,
        )
        steps = iter(loader)
        try:
            for step in steps:
                yield from step
        finally:
            # torch takes for a failure that a worker which is told to stop, in the middle of its work, aborts
            with suppress(RuntimeError):
                getattr(steps, "_shutdown_workers", bool)()


def _as_it_is(step: Sequence[Record]) -> Sequence[Record]:
    return step


@dataclass(frozen=True)
class _Steps:
    """A map-style data set whose item s is the list of step s's micro-batches on this rank."""

    examples: Examples
    local: int
    micro_batch_size: int
    rank: int
    world: int

    def __getitem__(self, step: int) -> Sequence[Record]:
        start = (step * self.world + self.rank) * self.local
        return self.examples.micro_batches(range(start, start + self.local), self.micro_batch_size)


@dataclass(frozen=True)
class _Counting:
    """start, start + 1, … without an end: the trainer decides when to stop."""

    start: int

    def __iter__(self) -> Iterator[int]:
        return count(self.start)
