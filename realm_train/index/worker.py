"""The refresh process's loop: newest snapshot in, index version out, until training ends."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from realm_train.errors import BadInput
from realm_train.index.refresher import Refresher
from realm_train.index.snapshot import Snapshot, latest_snapshot, read_snapshot
from realm_train.ports import EncodePassages

log = logging.getLogger(__name__)
FAILURES = 3  # in a row: then it is no accident


def follow(
    snapshots: str | Path,
    refresher: Refresher,
    make_encode: Callable[[dict[str, Tensor]], EncodePassages],
    *,
    poll_seconds: float,
    done: Callable[[], bool],
    heartbeat: str | Path,
) -> None:
    """Encodes the newest snapshot beyond the last published step, again and again, until `done()`; missed snapshots are
    skipped, and a refresh under way is given up (its finished shards stay). Raises what failed three times in a row."""
    failures = 0
    while not done():
        worked = False
        try:
            worked = _once(snapshots, refresher, make_encode, done=done, heartbeat=heartbeat)
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


def done_when(done_file: str | Path, *, parent: int | None = None) -> Callable[[], bool]:
    """True once the file is there, or once this process's parent is no longer `parent` (the trainer died)."""
    return lambda: Path(done_file).exists() or (parent is not None and os.getppid() != parent)


class TrainingEnded(Exception):
    """Nobody waits for the index that was being made."""


def _once(
    snapshots: str | Path,
    refresher: Refresher,
    make_encode: Callable[[dict[str, Tensor]], EncodePassages],
    *,
    done: Callable[[], bool],
    heartbeat: str | Path,
) -> bool:
    """One refresh, if there is a snapshot to take; says whether there was."""
    snapshot = _news(snapshots, newer_than=refresher.store.latest_step())
    if snapshot is None:
        _beat(heartbeat, state="waiting")
        return False

    def on_shard(shard: int) -> None:
        _beat(heartbeat, state="encoding", step=snapshot.step, shard=shard + 1, shards=refresher.shards)
        if done():
            raise TrainingEnded

    _beat(heartbeat, state="encoding", step=snapshot.step, shard=0, shards=refresher.shards)
    encode = make_encode(snapshot.tensors)
    manifest = refresher.refresh(encode, step=snapshot.step, tower=snapshot.tower, on_shard=on_shard)
    log.info("published index version %d of step %d", manifest["version"], snapshot.step)
    return True


def _news(snapshots: str | Path, *, newer_than: int | None) -> Snapshot | None:
    path = latest_snapshot(snapshots, newer_than=newer_than)
    try:
        return None if path is None else read_snapshot(path)
    except BadInput:
        if path.exists():
            raise
        return None  # a newer one replaced it before it was read


def _beat(heartbeat: str | Path, **state: object) -> None:
    """Says who is alive and doing what, at what time; between two shards it is silent."""
    heartbeat = Path(heartbeat)
    heartbeat.parent.mkdir(parents=True, exist_ok=True)
    partial = heartbeat.with_name(f"{heartbeat.name}.partial-{os.getpid()}")
    partial.write_text(json.dumps({"pid": os.getpid(), "time": time.time(), **state}), encoding="utf-8")
    partial.rename(heartbeat)
