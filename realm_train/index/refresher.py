"""A refresh: the whole corpus through one snapshot of the passage tower, shard by shard, then published.

    index/.work-<tower>-<step>-<plan>/   where a killed refresh goes on from
      shard-00003.npy                    written aside and renamed: whole, or not there

It knows embeddings, not models. No collective is open while it works: several ranks share nothing but this folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from realm_train.errors import BadInput
from realm_train.index import aside
from realm_train.index.store import DTYPES, IndexStore
from realm_train.ports import EncodePassages

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2  # between looks at what the other ranks have finished


class Refresher:
    """Encodes passages 0 … count-1 in shards and publishes them as the store's next version.

    With several ranks, rank 0 publishes; shards of a rank that finishes none for `patience_seconds` it encodes itself.
    """

    def __init__(
        self,
        store: IndexStore,
        *,
        corpus_hash: str,
        count: int,
        dim: int,
        dtype: str = "float32",
        shard_size: int = 4096,
        keep: int = 3,
        patience_seconds: float = 600.0,
    ) -> None:
        if count < 1 or dim < 1 or shard_size < 1 or keep < 1:
            raise BadInput(f"refresh: got {count=} {dim=} {shard_size=} {keep=}, expected each to be at least 1")
        if dtype not in DTYPES:
            raise BadInput(f"refresh: got dtype {dtype}, expected one of {', '.join(DTYPES)}")
        self.store = store
        self.corpus_hash, self.count, self.dim, self.dtype = corpus_hash, count, dim, dtype
        self.shard_size, self.keep, self.patience_seconds = shard_size, keep, patience_seconds
        self.shards = math.ceil(count / shard_size)

    def refresh(
        self,
        encode: EncodePassages,
        *,
        step: int,
        tower: str,
        progress: Callable[[int, int], None] | None = None,
        on_shard: Callable[[int], None] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> dict | None:
        """Publishes the corpus as `encode` sees it and returns the new version's manifest (None on ranks other than 0).

        `progress` gets this rank's finished passages and their total, `on_shard` each finished shard's number; what
        either raises ends the refresh. Raises BadInput for vectors that are not finite or of a wrong shape, and for a
        full disk; the last version stays, and finished shards are kept for the next attempt with the same weights."""
        started = time.monotonic()
        folder = self.work_folder(step=step, tower=tower)
        if rank == 0:
            self._clean(keep=folder)
        folder.mkdir(parents=True, exist_ok=True)
        mine = range(rank, self.shards, world)
        self._encode(mine, encode, folder=folder, progress=progress, on_shard=on_shard)
        if rank != 0:
            return None
        self._finish_others(encode, folder=folder, on_shard=on_shard)
        version = self.store.publish(
            self._all_finished(folder),
            count=self.count,
            dim=self.dim,
            dtype=self.dtype,
            trained_step=step,
            tower=tower,
            corpus=self.corpus_hash,
            seconds=time.monotonic() - started,
            keep=self.keep,
        )
        aside.remove(folder)
        return self.store.manifest(version)

    def work_folder(self, *, step: int, tower: str) -> Path:
        """Where finished shards wait; another one for anything that would change a shard's bytes."""
        plan = [tower, self.corpus_hash, self.count, self.dim, self.dtype, self.shard_size]
        digest = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
        return self.store.root / f".work-{tower[:12]}-{step:06d}-{digest[:8]}"

    def _clean(self, keep: Path) -> None:
        aside.sweep(self.store.root)
        for folder in self.store.root.glob(".work-*"):
            if folder != keep:
                aside.remove(folder)

    def _encode(
        self,
        shards: Sequence[int],
        encode: EncodePassages,
        *,
        folder: Path,
        progress: Callable[[int, int], None] | None,
        on_shard: Callable[[int], None] | None,
    ) -> None:
        total = sum(len(self._ids(shard)) for shard in shards)
        done = 0
        for shard in shards:
            ids = self._ids(shard)
            if self._finished(folder, shard) is None:
                self._write(folder, shard, self._vectors(encode, ids))
            done += len(ids)
            if on_shard is not None:
                on_shard(shard)
            if progress is not None:
                progress(done, total)

    def _ids(self, shard: int) -> range:
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.count))

    @torch.no_grad()
    def _vectors(self, encode: EncodePassages, ids: range) -> np.ndarray:
        vectors = encode(np.arange(ids.start, ids.stop))
        where = f"refresh: passages {ids[0]} to {ids[-1]}"
        if tuple(vectors.shape) != (len(ids), self.dim):
            raise BadInput(f"{where}: got vectors {tuple(vectors.shape)}, expected {(len(ids), self.dim)}")
        vectors = vectors.detach().to("cpu", getattr(torch, self.dtype)).contiguous()
        if not vectors.isfinite().all():
            raise BadInput(
                f"{where}: got vectors that are NaN or infinite as {self.dtype}; the last index stays."
                " Has training diverged? Lower the learning rate; store float32 if numbers are merely large"
            )
        return vectors.numpy()

    def _write(self, folder: Path, shard: int, vectors: np.ndarray) -> None:
        buffer = io.BytesIO()
        np.save(buffer, vectors)
        path = _shard_path(folder, shard)
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        with aside.full_disk_explained(self.store.root):
            try:
                aside.write_synced(partial, [buffer.getbuffer()])
                partial.rename(path)
            except FileNotFoundError as error:
                raise _lost(folder) from error
            finally:
                partial.unlink(missing_ok=True)

    def _finished(self, folder: Path, shard: int) -> np.ndarray | None:
        """A finished shard, memory-mapped; None if it is not there or not whole."""
        try:
            vectors = np.load(_shard_path(folder, shard), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        whole = vectors.shape == (len(self._ids(shard)), self.dim) and vectors.dtype == self.dtype
        return vectors if whole else None

    def _unfinished(self, folder: Path, shards: Sequence[int]) -> list[int]:
        return [shard for shard in shards if self._finished(folder, shard) is None]

    def _finish_others(self, encode: EncodePassages, *, folder: Path, on_shard: Callable[[int], None] | None) -> None:
        """Waits for the other ranks' shards, and does the work of those that have stopped."""
        missing = self._unfinished(folder, range(self.shards))
        last_news = time.monotonic()
        while missing:
            if not folder.exists():
                raise _lost(folder)
            time.sleep(POLL_SECONDS)
            still = self._unfinished(folder, missing)
            if len(still) < len(missing):
                last_news = time.monotonic()
            elif time.monotonic() - last_news > self.patience_seconds:
                log.warning(
                    "refresh: no news of %d shards for %.0f s: encoding them here", len(still), self.patience_seconds
                )
                self._encode(still, encode, folder=folder, progress=None, on_shard=on_shard)
            missing = still

    def _all_finished(self, folder: Path) -> Iterator[np.ndarray]:
        for shard in range(self.shards):
            vectors = self._finished(folder, shard)
            if vectors is None:
                raise _lost(folder)
            yield vectors


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.npy"


def _lost(folder: Path) -> BadInput:
    return BadInput(f"{folder}: removed while it was in use; another refresh works on this index: end one of the two")
