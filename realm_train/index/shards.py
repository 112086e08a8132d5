"""What a refresh has encoded so far, on disk: files of consecutive rows, each whole or not there.

A file is an .npy file and, after it, the SHA-256 of its bytes: a shard that was damaged since is encoded again.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from realm_train.errors import BadInput
from realm_train.index import aside

HASH_BYTES = hashlib.sha256().digest_size


class Shards:
    """The vectors of the passages `ids`, `size` to a file `folder`/shard-00003.npy."""

    def __init__(self, folder: Path, ids: range | np.ndarray, *, size: int, dim: int, dtype: str) -> None:
        self.folder = folder
        self._ids, self._size, self._dim, self._dtype = ids, size, dim, dtype

    def __len__(self) -> int:
        return math.ceil(len(self._ids) / self._size)

    def ids(self, shard: int) -> np.ndarray:
        """Passage ids of a shard's rows: [N]."""
        return np.asarray(self._ids[shard * self._size : (shard + 1) * self._size], dtype=np.int64)

    def write(self, shard: int, vectors: np.ndarray) -> None:
        """Writes aside and renames. Raises BadInput for a full disk, and when another refresh took the folder away."""
        buffer = io.BytesIO()
        np.save(buffer, vectors)
        content = buffer.getvalue()  # not its buffer: Python 3.12.1 crashes where an error keeps one alive
        path = self._path(shard)
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        with aside.full_disk_explained(self.folder.parent):
            try:
                aside.write_synced(partial, [content, hashlib.sha256(content).digest()])
                partial.rename(path)
            except FileNotFoundError as error:
                raise self.lost() from error
            finally:
                partial.unlink(missing_ok=True)

    def finished(self, shard: int) -> np.ndarray | None:
        """A finished shard, memory-mapped; None if it is not there or not as it was written."""
        try:
            vectors = np.load(self._path(shard), mmap_mode="r", allow_pickle=False)
            intact = _intact(self._path(shard))
        except (OSError, ValueError, EOFError):
            return None
        fits = vectors.shape == (len(self.ids(shard)), self._dim) and vectors.dtype == self._dtype
        return vectors if intact and fits else None

    def unfinished(self, shards: Iterable[int]) -> list[int]:
        """Those of the shards that are not finished."""
        return [shard for shard in shards if self.finished(shard) is None]

    def rows(self) -> Iterator[np.ndarray]:
        """All vectors, shard by shard; raises BadInput if one is missing or damaged."""
        for shard in range(len(self)):
            vectors = self.finished(shard)
            if vectors is None and self._path(shard).exists():
                raise BadInput(f"{self._path(shard)}: damaged since it was written; the next attempt encodes it again")
            if vectors is None:
                raise self.lost()
            yield vectors

    def lost(self) -> BadInput:
        """The error for a folder that is no longer ours alone."""
        return BadInput(
            f"{self.folder}: removed while it was in use; another refresh works on this index: end one of the two"
        )

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.npy"


def _intact(path: Path) -> bool:
    content = memoryview(path.read_bytes())
    return hashlib.sha256(content[:-HASH_BYTES]).digest() == content[-HASH_BYTES:]
