"""The versioned index on disk: how a refresh hands embeddings over to training.

index/
  v000123/          published by rename: whole and never changed again, or not there
    manifest.json   what made it, and the SHA-256 of every other file
    embeddings.npy  [count, dim]; row i is passage i
    …               what the search structure needs, if it is not exact search
  discarded-v000124-…/   versions from beyond the step that training was resumed at; no longer seen
  refused-v000124-…/     versions that training would not adopt; no longer seen, and made again under another number
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import time
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from realm_train.errors import BadInput
from realm_train.index import aside
from realm_train.index.exact import Exact
from realm_train.ports import Index, SearchStructure

DTYPES = ("float32", "float16")  # what an .npy file can hold
METRIC = "inner_product"
FIELDS = {"version", "trained_step", "tower", "corpus", "count", "dim", "dtype", "metric", "sha256"}


class IndexStore:
    """The versions in one folder; many processes may read and publish at once."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def versions(self) -> list[int]:
        """Numbers of the published versions, oldest first."""
        folders = self.root.glob("v*/manifest.json")
        return sorted(int(path.parent.name[1:]) for path in folders if re.fullmatch(r"v\d{6,}", path.parent.name))

    def latest(self) -> int | None:
        """The newest version, or None before the first."""
        return max(self.versions(), default=None)

    def latest_step(self, corpus: str | None = None) -> int | None:
        """The step whose weights made the newest version (of this corpus), or None before the first; what is damaged
        is passed over, and so made again."""
        return next((trained for _, trained in self._steps(corpus)), None)

    def folder(self, version: int) -> Path:
        """Where a version lives."""
        return self.root / f"v{version:06d}"

    def publish(
        self,
        embeddings: Iterable[np.ndarray],
        *,
        count: int,
        dim: int,
        dtype: str,
        trained_step: int,
        tower: str,
        corpus: str,
        seconds: float,
        keep: int = 3,
        facts: Mapping[str, object] | None = None,
        structure: SearchStructure | None = None,
        queries: np.ndarray | None = None,
    ) -> int:
        """Publishes consecutive pieces of the [count, dim] matrix as the next version, with what `structure` (None:
        exact search) needs to search it, keeps the newest `keep`, and returns the number; `facts` are kept in the
        manifest, `queries` [Q, dim] calibrate the structure. Raises BadInput when the disk is full, the pieces do not
        add up, or the structure refuses to serve; old versions stay."""
        if dtype not in DTYPES or keep < 1:
            raise BadInput(f"index: got dtype={dtype} keep={keep}, expected a dtype of {DTYPES} and keep of at least 1")
        manifest = {
            "kind": "index",
            "trained_step": trained_step,
            "tower": tower,
            "corpus": corpus,
            "count": count,
            "dim": dim,
            "dtype": dtype,
            "metric": METRIC,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            **(facts or {}),
        }
        with aside.written_aside(self.root) as folder:
            pieces = _npy_bytes(embeddings, count=count, dim=dim, dtype=dtype)
            manifest["sha256"] = _write_hashed(folder / "embeddings.npy", pieces)
            manifest["search"] = _built(structure or Exact(), folder, queries)
            version = self._publish_next(folder, manifest)
        self._prune(keep)
        return version

    def trained_since(self, step: int, *, besides: Container[int] = ()) -> int | None:
        """The newest version of weights after `step` steps or more, none of `besides`."""
        return next((version for version, trained in self._steps() if trained >= step and version not in besides), None)

    def of_tower(self, tower: str, *, corpus: str) -> int | None:
        """The newest version that these weights have made of this corpus."""
        return next((v for v, _ in self._steps(corpus) if self.manifest(v)["tower"] == tower), None)

    def _steps(self, corpus: str | None = None) -> Iterator[tuple[int, int]]:
        """(version, trained step), newest first; what is damaged, or being pruned, is passed over."""
        for version in reversed(self.versions()):
            with contextlib.suppress(BadInput):
                manifest = self.manifest(version)
                if corpus in (None, manifest["corpus"]):
                    yield version, manifest["trained_step"]

    def pin(self, pins: Mapping[str, int], *, spare: Container[str] | None = None) -> None:
        """Keeps versions from being pruned, by a name each: the one in use, those of checkpoints. With `spare`, earlier
        names that are not in it are let go. One process pins, others may publish."""
        kept = self._pins()
        if spare is not None:
            kept = {name: version for name, version in kept.items() if name in spare or not name.startswith("step-")}
        aside.write_json(self.root / "pins.json", {**kept, **pins})

    def _pins(self) -> dict[str, int]:
        """The versions to keep by their names; all of them, if that can no longer be read."""
        path = self.root / "pins.json"
        pins = aside.read_json(path)
        if isinstance(pins, dict):
            return pins
        return {f"unknown-{version}": version for version in self.versions()} if path.exists() else {}

    def _prune(self, keep: int) -> None:
        pinned = set(self._pins().values())
        for old in set(self.versions()[:-keep]) - pinned:
            with contextlib.suppress(BadInput):  # what is not surely a version of ours stays
                self.manifest(old)
                aside.remove(self.folder(old))

    def _publish_next(self, folder: Path, manifest: dict) -> int:
        refused = (re.match(r"refused-v(\d{6,})-", path.name) for path in self.root.glob("refused-v*"))
        version = max([*self.versions(), *(int(name[1]) for name in refused if name)], default=-1) + 1
        while True:
            text = json.dumps({"version": version, **manifest}, indent=2)
            aside.write_synced(folder / "manifest.json", [text.encode()])
            try:
                aside.publish(folder, self.folder(version))
                return version
            except FileExistsError:  # another refresh was faster
                version += 1

    def manifest(self, version: int) -> dict:
        """What the version says of itself; raises BadInput if it is not there or broken."""
        path = self.folder(version) / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise self._gone(version) from error
        except ValueError as error:
            raise BadInput(f"{path}: cannot be read ({error}); {self._remedy(version)}") from error
        whole = isinstance(manifest, dict) and manifest.get("kind") == "index" and manifest.keys() >= FIELDS
        if not whole or manifest["version"] != version:
            raise BadInput(f"{path}: this is not the manifest of index version {version}; {self._remedy(version)}")
        return manifest

    def load(
        self, version: int, *, corpus: str, tower: str | None = None, verify: bool = True
    ) -> tuple[dict, np.ndarray]:
        """The manifest and the memory-mapped embeddings [N, D] of a version. Raises BadInput if it is of another corpus
        or another tower (None: any), damaged, or gone; `verify=False` saves reading the bytes for their hash."""
        try:
            return self._load(version, corpus=corpus, tower=tower, verify=verify)
        except (BadInput, OSError) as error:
            if self.folder(version).exists():
                raise
            raise self._gone(version) from error

    def _load(self, version: int, *, corpus: str, tower: str | None, verify: bool) -> tuple[dict, np.ndarray]:
        manifest = self.manifest(version)
        path = self.folder(version) / "embeddings.npy"
        other = "use what it was made from, or refresh the index"
        damaged = self._remedy(version)
        _expect(path, "corpus", got=manifest["corpus"], expected=corpus, remedy=other)
        if tower is not None:
            _expect(path, "tower", got=manifest["tower"], expected=tower, remedy=other)
        _expect(path, "metric", got=manifest["metric"], expected=METRIC, remedy=damaged)
        embeddings = _map(path, damaged)
        shape = [manifest["count"], manifest["dim"]]
        _expect(path, "shape", got=list(embeddings.shape), expected=shape, remedy=damaged)
        _expect(path, "dtype", got=str(embeddings.dtype), expected=manifest["dtype"], remedy=damaged)
        if verify:
            hashes = {"embeddings.npy": manifest["sha256"], **manifest.get("search", {}).get("files", {})}
            for name, expected in hashes.items():
                file = path.parent / name
                _expect(file, "sha256", got=_hash_of(file, damaged), expected=expected, remedy=damaged)
        return manifest, embeddings

    def open(
        self,
        version: int,
        structure: SearchStructure,
        *,
        corpus: str,
        tower: str | None = None,
        device: str | torch.device = "cpu",
        verify: bool = True,
    ) -> tuple[dict, Index]:
        """The manifest and the index of a version, ready to be searched on `device`; for any thread. Raises BadInput as
        `load` does, and if the version was published for another structure and `structure` is not exact search."""
        manifest, embeddings = self.load(version, corpus=corpus, tower=tower, verify=verify)
        search = manifest.get("search", {"kind": Exact.kind})
        if structure.kind not in (search["kind"], Exact.kind):
            raise BadInput(
                f"{self.folder(version)}: published for index={search['kind']}, got index={structure.kind};"
                f" take index={search['kind']} or index=exact, or refresh the index with this one"
            )
        try:
            return manifest, structure.load(embeddings, self.folder(version), search, torch.device(device))
        except (BadInput, OSError) as error:
            if self.folder(version).exists():
                raise
            raise self._gone(version) from error

    def _gone(self, version: int) -> BadInput:
        have = ", ".join(f"v{number:06d}" for number in self.versions()) or "none"
        return BadInput(
            f"{self.folder(version)}: no such index version (there are: {have}); take one of them, or refresh"
        )

    def _remedy(self, version: int) -> str:
        return f"the version is damaged: move {self.folder(version)} away and take another, or refresh"

    def discard_after(self, step: int) -> list[Path]:
        """Renames versions trained beyond `step`, where training resumes, out of sight, and returns their new places;
        the next version takes their numbers again, as it would have without the interruption."""
        beyond = [version for version, trained in self._steps() if trained > step]
        return [place for version in reversed(beyond) if (place := self._put_aside(version, "discarded"))]

    def refuse(self, version: int) -> Path | None:
        """Renames a version that must not be adopted out of sight, so that a refresh makes it again, and returns its
        new place; None if it is gone. Its number is not used again: a reader that is late cannot mistake it."""
        return self._put_aside(version, "refused")

    def _put_aside(self, version: int, why: str) -> Path | None:
        folder = self.folder(version)
        try:
            return folder.rename(self.root / f"{why}-{folder.name}-{uuid.uuid4().hex[:8]}")
        except FileNotFoundError:
            return None


def _npy_bytes(embeddings: Iterable[np.ndarray], *, count: int, dim: int, dtype: str) -> Iterator[bytes | memoryview]:
    """The bytes that np.save would write for the whole matrix, which is never in memory at once."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": (count, dim)})
    yield header.getvalue()
    rows = 0
    for piece in embeddings:
        if piece.ndim != 2 or piece.shape[1] != dim or piece.dtype != dtype:
            raise BadInput(f"index: got embeddings {piece.shape} {piece.dtype}, expected [rows, {dim}] {dtype}")
        rows += len(piece)
        yield np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
    if rows != count:
        raise BadInput(f"index: got {rows} embeddings, expected {count}: the pieces must cover the corpus once")


def _write_hashed(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes | memoryview]:
        for piece in pieces:
            digest.update(piece)
            yield piece

    aside.write_synced(path, hashed())
    return digest.hexdigest()


def _built(structure: SearchStructure, folder: Path, queries: np.ndarray | None) -> dict:
    """What the manifest says of the search: the structure's own words, seconds, and the hashes of its files."""
    started = time.monotonic()
    embeddings = _map(folder / "embeddings.npy", "write it again")
    search = structure.build(embeddings, folder, queries)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "embeddings.npy"]
    for path in files:
        aside.sync(path)
        aside.sync(path.parent)
    hashes = {path.relative_to(folder).as_posix(): _hash_of(path, "write it again") for path in files}
    return {**search, "seconds": round(time.monotonic() - started, 3), "files": hashes}


def _hash_of(path: Path, remedy: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error}); {remedy}") from error


def _map(path: Path, remedy: str) -> np.ndarray:
    try:
        # Copy on write: torch takes it without a warning, and the file cannot be changed through it.
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); {remedy}") from error


def _expect(path: Path, what: str, *, got: object, expected: object, remedy: str) -> None:
    if got != expected:
        raise BadInput(f"{path}: got {what} {got}, expected {expected}; {remedy}")
