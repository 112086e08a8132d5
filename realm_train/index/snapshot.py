"""Snapshots of the passage tower's weights: how training hands them to the process that encodes the corpus.

snapshots/s000100/        published by rename
  manifest.json           step, hash of the tensors, time of writing
  weights.safetensors
  queries.npy             questions as these weights embed them, where the search is calibrated with them
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from realm_train.errors import BadInput
from realm_train.index import aside


@dataclass(frozen=True)
class Snapshot:
    """Weights of the passage tower after `step` optimiser steps; `tower` is their hash."""

    step: int
    tower: str
    tensors: dict[str, Tensor]
    queries: np.ndarray | None = None


def tower_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes; the same for any order of the dict and on any device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_snapshot(
    root: str | Path,
    *,
    step: int,
    tensors: Mapping[str, Tensor],
    queries: Float[np.ndarray, "Q D"] | None = None,
    keep: int = 2,
) -> Path:
    """Publishes the weights as `root/s000100`, replacing another snapshot of this step, and keeps the newest `keep`.
    Raises BadInput when the disk is full; older snapshots stay."""
    from safetensors.torch import save

    if keep < 1:
        raise BadInput(f"snapshots: got keep={keep}, expected at least 1")
    root = Path(root)
    manifest = {
        "kind": "snapshot",
        "step": step,
        "tower": tower_hash(tensors),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    target = root / f"s{step:06d}"
    with aside.written_aside(root) as folder:
        # Copies, since tied weights share memory and safetensors refuses that.
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        aside.write_synced(folder / "weights.safetensors", [save(copies)])
        if queries is not None:
            np.save(folder / "queries.npy", queries)
        aside.write_synced(folder / "manifest.json", [json.dumps(manifest, indent=2).encode()])
        if (target / "manifest.json").exists():
            aside.remove(target)
        aside.publish(folder, target)
    for old in _steps(root)[:-keep]:
        if old != step:
            aside.remove(root / f"s{old:06d}")
    return target


def latest_snapshot(root: str | Path, newer_than: int | None = None) -> Path | None:
    """The snapshot of the highest step, if that is beyond `newer_than`."""
    steps = _steps(Path(root))
    if not steps or (newer_than is not None and steps[-1] <= newer_than):
        return None
    return Path(root) / f"s{steps[-1]:06d}"


def read_snapshot(path: str | Path) -> Snapshot:
    """The weights, on the CPU. Raises BadInput if they are gone or do not match their hash."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        tensors = load_file(path / "weights.safetensors")
        queries = np.load(path / "queries.npy", allow_pickle=False) if (path / "queries.npy").exists() else None
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); take a newer snapshot of the weights") from error
    got = tower_hash(tensors)
    if manifest.get("tower") != got:
        raise BadInput(f"{path}: got weights with hash {got}, expected {manifest.get('tower')}; take a newer snapshot")
    return Snapshot(step=manifest["step"], tower=got, tensors=tensors, queries=queries)


def discard_snapshots_after(root: str | Path, step: int) -> list[Path]:
    """Renames snapshots beyond `step`, where training resumes, out of sight, and returns their new places: a worker
    would take them for news."""
    root = Path(root)
    beyond = [root / f"s{later:06d}" for later in _steps(root) if later > step]
    return [folder.rename(root / f"discarded-{folder.name}-{uuid.uuid4().hex[:8]}") for folder in beyond]


def _steps(root: Path) -> list[int]:
    folders = (path.parent.name for path in root.glob("s*/manifest.json"))
    return sorted(int(name[1:]) for name in folders if re.fullmatch(r"s\d{6,}", name))
