"""Vectors that need not be encoded again: rows of a published version that the same tower made of the same passages.

index/
  keys-<corpus>.npy   [N] content keys of a corpus's passages (realm_train.data.passage_keys): with them versions of it
                      serve another corpus, when the corpus itself may be gone
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from realm_train.batch import MISSING
from realm_train.errors import BadInput
from realm_train.index import aside
from realm_train.index.store import IndexStore

CHUNK = 1 << 20  # keys looked up at once


@dataclass(frozen=True)
class Reuse:
    """For every passage the row of the version's embeddings that is its vector, or MISSING."""

    version: Path
    rows: np.ndarray  # [N]
    embeddings: np.ndarray  # [R, D]

    def missing(self) -> np.ndarray:
        """The passages to encode, ascending: [M]."""
        return np.flatnonzero(self.rows == MISSING)

    def merged(self, encoded: Iterator[np.ndarray], *, size: int) -> Iterator[np.ndarray]:
        """The matrix [N, D] in pieces of `size` rows: those of the version to the bit, and among them the pieces
        `encoded`, which hold the missing passages in order."""
        waiting = np.empty((0, self.embeddings.shape[1]), dtype=self.embeddings.dtype)
        for start in range(0, len(self.rows), size):
            rows = self.rows[start : start + size]
            missing = rows == MISSING
            needed = int(missing.sum())
            while len(waiting) < needed:
                waiting = np.concatenate([waiting, next(encoded)])
            piece = np.empty((len(rows), waiting.shape[1]), dtype=waiting.dtype)
            piece[~missing] = self.embeddings[rows[~missing]]
            piece[missing], waiting = waiting[:needed], waiting[needed:]
            yield piece


def find_reuse(
    stores: Sequence[IndexStore], *, tower: str, dtype: str, dim: int, corpus: str, keys: np.ndarray
) -> Reuse | None:
    """The version of this tower, dtype and dim that holds most of the passages of `corpus`, whose content keys [N] are
    `keys`; of equal ones the newest, None where no version holds any. A damaged version is passed over."""
    rows: dict[str, np.ndarray] = {}  # by the corpus of a version
    found = []
    for store, manifest in _versions(stores, tower=tower, dtype=dtype, dim=dim):
        other = manifest["corpus"]
        if other not in rows:
            rows[other] = _rows(stores, other, corpus=corpus, keys=keys)
        if held := int((rows[other] != MISSING).sum()):
            found.append((held, manifest["created"], manifest["version"], store, other))
    for _, _, version, store, other in sorted(found, key=lambda one: one[:3], reverse=True):
        with contextlib.suppress(BadInput, OSError):  # damaged, or pruned since
            _, embeddings = store.load(version, corpus=other, tower=tower)
            return Reuse(version=store.folder(version), rows=rows[other], embeddings=embeddings)
    return None


def _versions(stores: Sequence[IndexStore], **made_with: object) -> Iterator[tuple[IndexStore, dict]]:
    for store in stores:
        for version in store.versions():
            with contextlib.suppress(BadInput):
                manifest = store.manifest(version)
                if manifest.items() >= made_with.items():
                    yield store, manifest


def _rows(stores: Sequence[IndexStore], other: str, *, corpus: str, keys: np.ndarray) -> np.ndarray:
    """Where the passages with these keys are among those of the corpus `other`, as far as its keys are known."""
    if other == corpus:
        return np.arange(len(keys))
    known = next((known for store in stores if (known := known_keys(store.root, other)) is not None), None)
    return np.full(len(keys), MISSING) if known is None else matched(keys, known)


def matched(keys: np.ndarray, known: np.ndarray) -> np.ndarray:
    """For each of `keys` [N] its place in `known` [M], or MISSING: [N]."""
    order = np.argsort(known, kind="stable")
    ordered = np.asarray(known)[order]
    rows = np.full(len(keys), MISSING)
    for start in range(0, len(keys) if len(known) else 0, CHUNK):
        chunk = keys[start : start + CHUNK]
        at = np.minimum(np.searchsorted(ordered, chunk), len(ordered) - 1)
        rows[start : start + CHUNK] = np.where(ordered[at] == chunk, order[at], MISSING)
    return rows


def remember_keys(root: Path, corpus: str, keys: np.ndarray) -> None:
    """Keeps the content keys [N] of a corpus beside the versions of it; does nothing where they are kept already."""
    target = _keys_path(root, corpus)
    if target.exists():
        return
    header = io.BytesIO()
    description = np.lib.format.dtype_to_descr(keys.dtype)
    np.lib.format.write_array_header_1_0(header, {"descr": description, "fortran_order": False, "shape": keys.shape})
    with aside.written_aside(root) as folder:
        aside.write_synced(folder / target.name, [header.getvalue(), np.ascontiguousarray(keys).view(np.uint8).data])
        (folder / target.name).rename(target)


def known_keys(root: Path, corpus: str) -> np.ndarray | None:
    """The kept content keys [N] of a corpus, memory-mapped; None where there are none."""
    try:
        return np.load(_keys_path(root, corpus), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None


def _keys_path(root: Path, corpus: str) -> Path:
    return root / f"keys-{corpus[:16]}.npy"
