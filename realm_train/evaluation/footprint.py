"""What a process holds in memory, as the kernel counts it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

KEYS = {"peak": "VmHWM", "resident": "VmRSS", "private": "RssAnon", "mapped": "RssFile"}


def footprint(pid: int | str = "self") -> dict[str, int]:
    """Bytes: `peak` and `resident`, and of the latter what is `private` and what is `mapped` from files, which the
    kernel can drop and share. Empty where there is no /proc or no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    values = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return {key: int(values[name][0]) * 1024 for key, name in KEYS.items() if name in values}


def forget_peak() -> None:
    """Lets `peak` begin anew at what is resident now, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return  # then the peak stays that of the whole process: too high, never too low


class Watch:
    """Notes this process's peak over time, from a thread, while its block runs."""

    def __init__(self, every: float = 0.05) -> None:
        self.every, self.seen = every, [(0.0, 0)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._note, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _note(self) -> None:
        while not self._stop.wait(self.every):
            self.seen.append((time.time(), footprint().get("peak", 0)))

    def at(self, moment: float) -> int:
        """The peak at a time of the clock, in bytes."""
        return max(peak for when, peak in self.seen if when <= moment)
