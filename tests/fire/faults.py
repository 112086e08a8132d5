"""What goes wrong inside a process, at a moment that a seed has chosen. For processes that are made to be broken."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from realm_train.index import aside

DISK = ("fsync", "rename", "replace", "unlink", "mkdir")  # of os: wherever a kill may leave something half done


@dataclass(frozen=True)
class Faults:
    """`die_at`: SIGKILL at the n-th call that touches the disk, before or after it. `full_at`: no space left for
    `full_for` calls from the n-th on. `births`: what is wrong with the first versions that this process publishes.
    `clock_at`: the clock jumps an hour back at its n-th reading. `slow`: seconds a shard takes longer."""

    seed: int = 0
    die_at: int | None = None
    die_after: bool = False
    die_in: str | None = None  # a word of the trainer's: adopt
    full_at: int | None = None
    full_for: int = 0
    births: tuple[str, ...] = ()
    clock_at: int | None = None
    slow: float = 0.0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def inject(faults: Faults, *, notes: Path) -> None:
    """Breaks this process as told; what it damages it notes first in `notes`, one JSON line each."""
    if faults.die_at is not None or faults.full_at is not None:
        calls = Calls(faults)
        for name in DISK:
            setattr(os, name, calls.around(name, getattr(os, name)))
    if faults.clock_at is not None:
        time.time = backwards(time.time, faults.clock_at)
    if faults.births:
        aside.publish = damaging(aside.publish, faults, notes)


class Calls:
    """Counts what touches the disk, in all threads."""

    def __init__(self, faults: Faults) -> None:
        self.faults, self.count = faults, 0

    def around(self, name: str, call: Callable) -> Callable:
        def counted(*args, **settings):
            self.count += 1
            now, full_at = self.count, self.faults.full_at
            if now == self.faults.die_at and not self.faults.die_after:
                die()
            if name == "fsync" and full_at is not None and full_at <= now < full_at + self.faults.full_for:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            result = call(*args, **settings)
            if now == self.faults.die_at:
                die()
            return result

        return counted


def backwards(clock: Callable[[], float], at: int) -> Callable[[], float]:
    """A clock that is set back by an hour."""
    readings = iter(range(at))
    return lambda: clock() if next(readings, None) is not None else clock() - 3600


def damaging(publish: Callable, faults: Faults, notes: Path) -> Callable:
    """As `publish`, after damage to the first versions."""
    births, rng = list(faults.births), random.Random(faults.seed)

    def published(folder: Path, target: Path) -> None:
        if births and (folder / "embeddings.npy").exists():
            with notes.open("a") as file:
                file.write(json.dumps({"version": int(target.name[1:]), "damage": births[0]}) + "\n")
            damage(folder, births.pop(0), rng)
        publish(folder, target)

    return published


FILES = ("flipped byte", "truncated", "appended", "emptied")
VERSIONS = (*FILES, "no manifest", "garbled manifest", "other corpus", "other tower", "from the future")


def damage(folder: Path, kind: str, rng: random.Random) -> None:
    """Damages a version that is about to be published."""
    path = folder / "manifest.json"
    if kind in FILES:
        damage_file(folder / "embeddings.npy", kind, rng)
    elif kind == "no manifest":
        path.unlink()
    elif kind == "garbled manifest":
        path.write_bytes(path.read_bytes()[: rng.randrange(80)])
    else:
        lies = {
            "other corpus": {"corpus": "decaf"},
            "other tower": {"tower": "f" * 64},
            "from the future": {"tower": "e" * 64, "trained_step": 10**6},
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | lies[kind]))


def damage_file(path: Path, kind: str, rng: random.Random) -> None:
    """Damages one file of numbers."""
    content = bytearray(path.read_bytes())
    if kind == "flipped byte":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "truncated":
        del content[rng.randrange(1, len(content)) :]
    elif kind == "appended":
        content += bytes(rng.randrange(1, 100))
    else:
        content.clear()
    path.write_bytes(content)
