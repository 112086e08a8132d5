"""The contract of every preparation step: do nothing when nothing changed, write aside, rename, say what was done.

A step is a function `work(aside) -> fields`: it writes its files into the folder `aside` and returns what its manifest
should say about them. `aside` is `<out>.partial/<digest of inputs and settings>` and is renamed to `out` only when the
work is complete. A resumable step finds there what a killed run of the very same step left; others find it empty.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from data_prep.exchange import exchange
from realm_train.errors import BadInput

HASHED_BYTES = 4 << 30  # larger files are recognised by size and time of change


def run_step(
    *,
    name: str,
    kind: str,
    out: str | Path,
    inputs: list[dict],
    settings: dict,
    work: Callable[[Path], dict],
    resumable: bool = False,
) -> tuple[dict, bool]:
    """The manifest of `out` and whether it had to be made: `work` runs only if inputs, settings or files changed.

    What stood at `out` before moves to `<out>.previous`; a folder that is no `kind` is refused with BadInput.
    """
    out = Path(out)
    wanted = json.loads(json.dumps({"kind": kind, "step": name, "inputs": inputs, "settings": settings}))
    existing = finished(out, wanted=wanted)
    if existing is not None:
        return existing, False
    refuse_foreign(out, kind=kind)
    aside = out.parent / f"{out.name}.partial" / digest(wanted)[:16]
    with alone_in(aside, resumable=resumable):
        started = time.perf_counter()
        fields = work(aside)
        manifest = {
            **wanted,
            **fields,
            "seconds": round(time.perf_counter() - started, 2),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": file_sizes(aside),
        }
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        publish(aside, out)
    return manifest, True


def finished(out: Path, *, wanted: dict) -> dict | None:
    """The manifest of `out` if it says all that is wanted and every file that it names is there, else None."""
    manifest = manifest_of(out)
    if manifest is None or any(manifest.get(key) != value for key, value in wanted.items()):
        return None
    return manifest if intact(out, manifest) else None


def intact(folder: Path, manifest: dict) -> bool:
    """Whether every file that the folder's manifest names is there, as long as it was."""
    paths = {folder / file: size for file, size in manifest["files"].items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def manifest_of(folder: Path) -> dict | None:
    """The folder's manifest, or None where there is none that can be read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) else None


def refuse_foreign(out: Path, *, kind: str) -> None:
    """Raises BadInput if something stands at `out` that a step of this kind did not make."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() and (manifest_of(out) or {}).get("kind") != kind:
        raise BadInput(f"{out}: exists and is no prepared {kind}; nothing was touched: give another out=")


def publish(aside: Path, out: Path) -> None:
    """Renames the finished folder to `out`; an older version, whose place it takes in one moment where the system can,
    stays as `<out>.previous`."""
    if not out.exists():
        aside.rename(out)
        return
    previous = out.with_name(f"{out.name}.previous")
    if previous.exists():
        shutil.rmtree(previous)
    if exchange(aside, out):
        aside.rename(previous)
    else:
        out.rename(previous)
        aside.rename(out)


@contextmanager
def alone_in(aside: Path, *, resumable: bool) -> Iterator[None]:
    """Makes `aside` and holds it against a second process that would write the same; a failure leaves no litter."""
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{aside.parent}: cannot be made ({error.strerror}); give another out=") from error
    lock = aside.with_suffix(".lock")
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"{aside}: another process is making this very folder; wait for it to end") from error
        if not resumable:
            shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(exist_ok=True)
        try:
            yield
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise BadInput(f"{aside}: the disk is full; what was there before is untouched: make room") from error
        finally:
            if aside.exists() and not resumable:
                shutil.rmtree(aside)
            lock.unlink()
            with suppress(OSError):
                aside.parent.rmdir()  # succeeds only when nothing else is being made


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below the folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def digest(value: dict) -> str:
    """sha256 of a plain value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(path: str | Path) -> dict:
    """What names a file's content: its sha256, or size and time of change where reading it would take minutes."""
    path = Path(path)
    try:
        status = path.stat()
        if status.st_size > HASHED_BYTES:
            return {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        with path.open("rb") as file:
            return {"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the path") from error
