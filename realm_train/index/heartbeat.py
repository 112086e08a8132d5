"""Signs of life in a file, and how another machine reads them without trusting anybody's clock."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from realm_train.index.aside import read_json, write_json


class Heartbeat:
    """Says every `seconds` who is alive and doing what, from a thread of its own: long work does not silence it."""

    def __init__(self, path: str | Path, *, seconds: float = 1.0) -> None:
        self.path, self.seconds = Path(path), seconds
        self._state: dict[str, object] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, daemon=True)

    def __enter__(self) -> Heartbeat:
        self.say(state="starting")
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self.say(state="ended")

    def say(self, **state: object) -> None:
        """What is being done from now on."""
        self._state = state
        self._write()

    def _beat_on(self) -> None:
        while not self._ended.wait(self.seconds):
            self._write()

    def _write(self) -> None:
        who = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        with contextlib.suppress(OSError):  # a full disk is the work's to report; a missed beat is no reason to end it
            write_json(self.path, {**who, **self._state})


class Watch:
    """How long a file that somebody beats has not changed, in seconds of this process's own monotonic clock."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._seen, self._since = None, time.monotonic()

    def silent_seconds(self) -> float:
        """Seconds since the last change that this process has noticed; counts from the start while there is no file."""
        seen = read_json(self.path)
        if seen is not None and seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since
