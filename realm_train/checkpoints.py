"""What the stages of a run have left in its folder: the newest checkpoint, its weights, whether a stage is finished."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from realm_train.callbacks import provenance
from realm_train.errors import BadInput

ORDER = ("ict", "mlm", "pretrain", "open_qa")  # of the stages: each starts from the weights of those before it
PARTS = ("towers", "reader", "span_reader", "null_bias")  # of a model: what a stage can hand on

Weights = dict[str, dict[str, torch.Tensor]]
"""State dicts of the PARTS that earlier stages have trained; a scalar's has one entry, named ''."""


def weights_of(checkpoint: Path, *names: str) -> Weights:
    """The state dicts of the named parts in a checkpoint of any stage."""
    state = read_checkpoint(checkpoint)["state_dict"]
    parts: Weights = {}
    for key, value in state.items():
        part, _, name = key.removeprefix("realm.").removeprefix("qa.").partition(".")
        if part in names:
            parts.setdefault(part, {})[name] = value
    return parts


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What Lightning has saved, its tensors mapped and not read yet; raises BadInput for a file that is not whole."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"{path}: is no whole checkpoint ({reason}); move it away to go on from the one before"
        ) from error


def last_checkpoint(run: Path, stage: str | None = None, *, required: bool = True) -> Path | None:
    """The newest checkpoint of a stage, or of the last stage that has one; raises BadInput if it is required."""
    for name in [stage] if stage else reversed(ORDER):
        saved = (run / "checkpoints" / name).glob("step-*.ckpt")
        if newest := max(saved, key=lambda path: int(path.stem.removeprefix("step-")), default=None):
            return newest
    if required:
        raise BadInput(f"{run / 'checkpoints'}: no checkpoint of {stage or 'any stage'}; train it first")
    return None


def finished(run: Path, stage: str) -> bool:
    """Whether a stage of this run was trained to its end."""
    return (run / "checkpoints" / stage / "DONE").exists()


def trained_on(run: Path) -> str | None:
    """The hash of the corpus that a run was trained on, as far as it is known."""
    return provenance.read(run).get("data", {}).get("corpus")


def weights_up_to(run: Path, stage: str | None = None) -> tuple[str, int, Weights]:
    """The weights that a run has after `stage` (None: its last), whichever stages trained them; the last stage that
    trained towers, and its step. Raises BadInput where there are none, or `stage` was not trained."""
    if stage is not None and stage not in ORDER:
        raise BadInput(f"stage: got {stage!r}, expected one of {', '.join(ORDER)}")
    if stage is not None:
        last_checkpoint(run, stage)  # or those of an earlier stage would pass for its
    stages = ORDER if stage is None else ORDER[: ORDER.index(stage) + 1]
    weights: Weights = {}
    newest = None
    for name in stages:
        checkpoint = last_checkpoint(run, name, required=False)
        if checkpoint is None:
            continue
        found = weights_of(checkpoint, *PARTS)
        if "towers" in found:
            newest = name, int(checkpoint.stem.removeprefix("step-"))
        weights |= found
    if newest is None:
        raise BadInput(
            f"{run / 'checkpoints'}: no trained towers{f' up to the stage {stage}' if stage else ''}; train ict,"
            " pretrain or open_qa first"
        )
    return *newest, weights
