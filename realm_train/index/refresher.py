"""A refresh: the whole corpus through one snapshot of the passage tower, shard by shard, then published.

    index/.work-<tower>-<step>-<plan>/   where a killed refresh goes on from
      shard-00003.npy                    written aside and renamed: whole, or not there; ends with its own SHA-256

It knows embeddings, not models. No collective is open while it works: several ranks share nothing but this folder.
Passages that a published version of the same tower holds are not encoded again (realm_train.index.reuse): their rows
are those of that version to the bit. The others' last bits depend, as ever, on what they are batched with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from realm_train.errors import BadInput
from realm_train.index import aside
from realm_train.index.reuse import Reuse, find_reuse, remember_keys
from realm_train.index.shards import Shards
from realm_train.index.store import DTYPES, IndexStore
from realm_train.ports import EncodePassages, SearchStructure

log = logging.getLogger(__name__)
POLL_SECONDS = 0.2  # between looks at what the other ranks have finished


class Refresher:
    """Encodes passages 0 … count-1 in shards and publishes them as the store's next version.

    With several ranks, rank 0 publishes; shards of a rank that finishes none for `patience_seconds` it encodes itself.
    With the passages' content `keys` [N], rows of this store's versions and of those of `reuse_from` are reused.
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
        keys: np.ndarray | None = None,
        reuse_from: Sequence[IndexStore] = (),
        structure: SearchStructure | None = None,
    ) -> None:
        if count < 1 or dim < 1 or shard_size < 1 or keep < 1:
            raise BadInput(f"refresh: got {count=} {dim=} {shard_size=} {keep=}, expected each to be at least 1")
        if dtype not in DTYPES:
            raise BadInput(f"refresh: got dtype {dtype}, expected one of {', '.join(DTYPES)}")
        self.store = store
        self.corpus_hash, self.count, self.dim, self.dtype = corpus_hash, count, dim, dtype
        self.shard_size, self.keep, self.patience_seconds = shard_size, keep, patience_seconds
        self.keys, self.reuse_from, self.structure = keys, reuse_from, structure
        self.shards = math.ceil(count / shard_size)  # of a refresh that reuses nothing

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
        queries: np.ndarray | None = None,
    ) -> dict | None:
        """Publishes the corpus as `encode` sees it and returns the new version's manifest (None on ranks other than 0).

        `progress` gets this rank's finished passages and their total, `on_shard` each finished shard's number; what
        either raises ends the refresh; `queries` [Q, D] are questions to calibrate the search with. Raises BadInput for
        vectors that are not finite or of a wrong shape, and for a full disk; the last version stays, and finished
        shards are kept for the next attempt with the same weights."""
        started = time.monotonic()
        reuse = self._reuse(tower)
        ids = range(self.count) if reuse is None else reuse.missing()
        folder = self.work_folder(step=step, tower=tower, reuse=reuse)
        shards = Shards(folder, ids, size=self.shard_size, dim=self.dim, dtype=self.dtype)
        if rank == 0:
            self._clean(keep=folder)
        folder.mkdir(parents=True, exist_ok=True)
        mine = range(rank, len(shards), world)
        self._encode(mine, encode, shards=shards, progress=progress, on_shard=on_shard)
        if rank != 0:
            return None
        self._finish_all(encode, shards=shards, world=world, on_shard=on_shard)
        if self.keys is not None:
            remember_keys(self.store.root, self.corpus_hash, self.keys)
        version = self.store.publish(
            shards.rows() if reuse is None else reuse.merged(shards.rows(), size=self.shard_size),
            count=self.count,
            dim=self.dim,
            dtype=self.dtype,
            trained_step=step,
            tower=tower,
            corpus=self.corpus_hash,
            seconds=time.monotonic() - started,
            keep=self.keep,
            structure=self.structure,
            queries=queries,
            facts={
                "reused": self.count - len(ids),
                "encoded": len(ids),
                "reused_from": None if reuse is None else str(reuse.version),
            },
        )
        aside.remove(folder)
        return self.store.manifest(version)

    def _reuse(self, tower: str) -> Reuse | None:
        if self.keys is None:
            return None
        stores = [self.store, *self.reuse_from]
        made_with = {"tower": tower, "dtype": self.dtype, "dim": self.dim}
        return find_reuse(stores, **made_with, corpus=self.corpus_hash, keys=self.keys)

    def work_folder(self, *, step: int, tower: str, reuse: Reuse | None = None) -> Path:
        """Where finished shards wait; another one for anything that would change a shard's bytes."""
        plan = [tower, self.corpus_hash, self.count, self.dim, self.dtype, self.shard_size]
        if reuse is not None:
            plan.append(hashlib.sha256(reuse.missing().tobytes()).hexdigest())
        digest = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
        return self.store.root / f".work-{tower[:12]}-{step:06d}-{digest[:8]}"

    def _clean(self, keep: Path) -> None:
        aside.sweep(self.store.root)
        for folder in self.store.root.glob(".work-*"):
            if folder != keep:
                aside.remove(folder)

    def _encode(
        self,
        numbers: Sequence[int],
        encode: EncodePassages,
        *,
        shards: Shards,
        on_shard: Callable[[int], None] | None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        total = sum(len(shards.ids(shard)) for shard in numbers)
        done = 0
        for shard in numbers:
            ids = shards.ids(shard)
            if shards.finished(shard) is None:
                shards.write(shard, self._vectors(encode, ids))
            done += len(ids)
            if on_shard is not None:
                on_shard(shard)
            if progress is not None:
                progress(done, total)

    @torch.no_grad()
    def _vectors(self, encode: EncodePassages, ids: np.ndarray) -> np.ndarray:
        vectors = encode(ids)
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

    def _finish_all(
        self, encode: EncodePassages, *, shards: Shards, world: int, on_shard: Callable[[int], None] | None
    ) -> None:
        """Encodes again what was damaged of rank 0's own, waits for the other ranks' shards, and does the work of those
        that have stopped."""
        missing = shards.unfinished(range(len(shards)))
        self._encode([shard for shard in missing if shard % world == 0], encode, shards=shards, on_shard=on_shard)
        missing = [shard for shard in missing if shard % world]
        last_news = time.monotonic()
        while missing:
            if not shards.folder.exists():
                raise shards.lost()
            time.sleep(POLL_SECONDS)
            still = shards.unfinished(missing)
            if len(still) < len(missing):
                last_news = time.monotonic()
            elif time.monotonic() - last_news > self.patience_seconds:
                log.warning(
                    "refresh: no news of %d shards for %.0f s: encoding them here", len(still), self.patience_seconds
                )
                self._encode(still, encode, shards=shards, on_shard=on_shard)
            missing = still
