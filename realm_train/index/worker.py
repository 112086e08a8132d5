"""The refresh process's loop: newest snapshot in, index version out, until training ends."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from realm_train.errors import BadInput
from realm_train.index.aside import read_json, write_json
from realm_train.index.heartbeat import Heartbeat, Watch
from realm_train.index.refresher import Refresher
from realm_train.index.snapshot import Snapshot, latest_snapshot, read_snapshot
from realm_train.ports import EncodePassages

log = logging.getLogger(__name__)
FAILURES = 3  # in a row: then it is no accident
LOCKED = {errno.EAGAIN, errno.EACCES}


def follow(
    snapshots: str | Path,
    refresher: Refresher,
    make_encode: Callable[[dict[str, Tensor]], EncodePassages],
    *,
    poll_seconds: float,
    done: Callable[[], bool],
    heartbeat: str | Path,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Encodes the newest snapshot beyond the last published step, again and again, until `done()`; missed snapshots are
    skipped, and a refresh under way is given up (its finished shards stay). Raises what failed three times in a row.

    Of several ranks, rank 0 says which snapshot is next, in a file; the others help with its shards."""
    failures, news = 0, News(Path(snapshots), refresher, rank=rank)
    with Heartbeat(heartbeat) as pulse:
        while not done():
            worked = False
            try:
                worked = _once(news, refresher, make_encode, done=done, pulse=pulse, rank=rank, world=world)
                failures = 0
            except TrainingEnded:
                return
            except Exception:
                failures += 1
                log.exception(
                    "refresh failed (%d of %d in a row); training goes on with the last index", failures, FAILURES
                )
                if failures == FAILURES:
                    raise
            if not worked:
                time.sleep(poll_seconds)


def done_when(
    done_file: str | Path,
    *,
    parent: int | None = None,
    trainer: str | Path | None = None,
    patience_seconds: float = 3600.0,
) -> Callable[[], bool]:
    """True once the file is there, once this process's parent is no longer `parent`, or once the heartbeat `trainer`
    has been silent for so long: the trainer ended, or died."""
    watch = None if trainer is None else Watch(trainer)

    def done() -> bool:
        orphaned = parent is not None and os.getppid() != parent
        return Path(done_file).exists() or orphaned or (watch is not None and watch.silent_seconds() > patience_seconds)

    return done


@contextmanager
def alone(lock: str | Path, *, wait_seconds: float = 30.0) -> Iterator[None]:
    """Holds the lock of a run's worker, which dies with the process. Raises BadInput if another one keeps it; the one
    that a killed trainer left behind ends within `wait_seconds`."""
    path = Path(lock)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        until = time.monotonic() + wait_seconds
        while not _locked(file.fileno()):
            if time.monotonic() > until:
                file.seek(0)
                raise BadInput(
                    f"{path}: another worker ({file.read().strip() or 'unknown'}) keeps the index of this run fresh;"
                    " end it first, or let it do the work"
                )
            time.sleep(0.2)
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in LOCKED:
            return False
        log.warning("this file system has no locks (%s): see to it that only one worker follows this run", error)
    return True


class TrainingEnded(Exception):
    """Nobody waits for the index that was being made."""


class News:
    """Which snapshot a rank encodes next."""

    def __init__(self, snapshots: Path, refresher: Refresher, *, rank: int) -> None:
        self.snapshots, self.refresher, self.rank = snapshots, refresher, rank
        self.chosen = snapshots / "encoding.json"
        self._helped: object = None

    def next(self) -> Snapshot | None:
        """Rank 0: the newest snapshot beyond the last version; others: the one that rank 0 has begun with."""
        if self.rank:
            return self._to_help_with()
        published = self.refresher.store.latest_step(self.refresher.corpus_hash)
        path = latest_snapshot(self.snapshots, newer_than=published)
        snapshot = None if path is None else _read(path)
        if snapshot is not None:
            write_json(self.chosen, {"step": snapshot.step, "tower": snapshot.tower, "begun": time.time_ns()})
        return snapshot

    def _to_help_with(self) -> Snapshot | None:
        chosen = read_json(self.chosen)
        if chosen is None or chosen == self._helped:
            return None
        snapshot = _read(self.snapshots / f"s{chosen['step']:06d}")
        self._helped = chosen
        return snapshot if snapshot is not None and snapshot.tower == chosen["tower"] else None


def _read(path: Path) -> Snapshot | None:
    try:
        return read_snapshot(path)
    except BadInput:
        if path.exists():
            raise
        return None  # a newer one replaced it before it was read


def _once(
    news: News,
    refresher: Refresher,
    make_encode: Callable[[dict[str, Tensor]], EncodePassages],
    *,
    done: Callable[[], bool],
    pulse: Heartbeat,
    rank: int,
    world: int,
) -> bool:
    """One refresh, if there is a snapshot to take; says whether there was."""
    snapshot = news.next()
    if snapshot is None:
        pulse.say(state="waiting")
        return False

    def on_shard(shard: int) -> None:
        pulse.say(state="encoding", step=snapshot.step, shard=shard + 1, shards=refresher.shards)
        if done():
            raise TrainingEnded

    pulse.say(state="encoding", step=snapshot.step, shard=0, shards=refresher.shards)
    manifest = refresher.refresh(
        make_encode(snapshot.tensors),
        step=snapshot.step,
        tower=snapshot.tower,
        on_shard=on_shard,
        rank=rank,
        world=world,
        queries=snapshot.queries,
    )
    if manifest is not None:
        log.info("published index version %d of step %d", manifest["version"], snapshot.step)
    return True
