"""Written aside, synced to disk, then renamed: what others see is whole, or it is not there.

root/.partial-<host>-<pid>-<random>/   being written; removed on any error, and by the next writer after a kill
root/.removed-<random>/                renamed out of sight, being deleted
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from realm_train.errors import BadInput

FULL_DISK = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def written_aside(root: Path) -> Iterator[Path]:
    """A fresh folder in `root` to fill and then rename; removed if the block ends before that. Raises BadInput when the
    disk is full."""
    root.mkdir(parents=True, exist_ok=True)
    sweep(root)
    folder = root / f".partial-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        with full_disk_explained(root):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def full_disk_explained(root: Path) -> Iterator[None]:
    """Turns the operating system's "no space left" into a BadInput that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise BadInput(
            f"{root}: disk full or quota reached while writing; what was published before is untouched."
            " Free some space, or keep fewer versions; nothing else needs repair"
        ) from error


def write_synced(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes the pieces and waits until they are on disk."""
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def publish(folder: Path, target: Path) -> None:
    """Renames a filled folder to its final name, durably. Raises FileExistsError if something is there already."""
    sync(folder)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "already published", str(target))
    try:
        os.rename(folder, target)
    except OSError as error:  # another writer was faster: a folder with files in it is never replaced by a rename
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise FileExistsError(errno.EEXIST, "already published", str(target)) from error
    sync(target.parent)


def remove(folder: Path) -> None:
    """Deletes a folder of ours; readers see all of it or none of it. One that is gone already is no error."""
    aside = folder.with_name(f".removed-{uuid.uuid4().hex[:8]}")
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside, ignore_errors=True)


def sweep(root: Path) -> None:
    """Deletes what killed writers of this machine left behind."""
    for folder in root.glob(".removed-*"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in root.glob(".partial-*"):
        written_by = re.fullmatch(r"\.partial-(.+)-(\d+)-[0-9a-f]{8}", folder.name)
        if written_by and written_by[1] == _host() and not _alive(int(written_by[2])):
            shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_json(path: Path, value: object) -> None:
    """A small file that readers see as it was or as it is now, never in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}-{threading.get_ident()}")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> object | None:
    """What `write_json` wrote; None where it is not there, or not yet here over a network file system."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
