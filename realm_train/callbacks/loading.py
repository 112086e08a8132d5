"""An index version that a thread of this process reads and checks while training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

REFUSED, UNDER_WAY, READY = -1, 0, 1
T = TypeVar("T")


class Background(Generic[T]):
    """One piece of work in a thread; what it raises comes out of `result`."""

    def __init__(self, work: Callable[[], T]) -> None:
        executor = ThreadPoolExecutor(max_workers=1)
        self._future: Future[T] = executor.submit(work)
        executor.shutdown(wait=False)  # the thread ends with its work

    def state(self) -> int:
        """UNDER_WAY, READY, or REFUSED if it raised."""
        if not self._future.done():
            return UNDER_WAY
        return READY if self._future.exception() is None else REFUSED

    def result(self) -> T:
        """What the work returned; waits for it."""
        return self._future.result()

    def error(self) -> BaseException | None:
        """What it raised, once it is done."""
        return self._future.exception()


class Loading(Background[T]):
    """A version being opened; a rank that sees it late on the shared file system looks for it for `visible_seconds`,
    or until it is told to `give_up`."""

    def __init__(
        self,
        version: int,
        *,
        there: Callable[[], bool],
        open: Callable[[int], T],
        visible_seconds: float = 600.0,
    ) -> None:
        self.version = version
        self._given_up = False

        def work() -> T:
            until = time.monotonic() + visible_seconds
            while not there() and not self._given_up and time.monotonic() < until:
                time.sleep(0.1)
            return open(version)

        super().__init__(work)

    def give_up(self) -> None:
        """Nobody wants it any more: a process that ends need not wait until it comes."""
        self._given_up = True
