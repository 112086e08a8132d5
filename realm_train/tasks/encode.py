"""Passages -> vectors, for the index: the one function that trainer and refresher share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from realm_train.batch import Sequences
from realm_train.data.corpus import Corpus
from realm_train.models.towers import Tower
from realm_train.ports import EncodePassages


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode is put back afterwards."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def search_vectors(tower: Tower, sequences: Sequences, vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """What to search with, given the vectors of a training step: these, or without dropout where they have some."""
    if tower.dropout == 0:
        return vectors.detach()
    with evaluating(tower):
        return tower(sequences)


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """The autocast context of one of Lightning's names: `32-true`, `bf16-mixed`, `16-mixed`."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(torch.device(device).type, dtype=dtype, enabled=precision.endswith("mixed"))


def passage_encoder(
    tower: Tower, corpus: Corpus, *, max_length: int, precision: str = "32-true", batch: int = 512
) -> EncodePassages:
    """A function from passage ids to the tower's vectors on the CPU, in the order of the ids.

    Passages are sorted by length before they are cut into batches, so that little is computed on padding; how they are
    grouped depends on the ids alone, so the same ids and weights give the same bits in every process.
    """

    def encode(ids: np.ndarray) -> Float[Tensor, "N D"]:
        device = next(tower.parameters()).device
        ids = np.asarray(ids, dtype=np.int64)
        lengths = corpus.token_offsets[ids + 1] - corpus.token_offsets[ids]
        order = np.argsort(lengths, kind="stable")
        vectors = torch.empty(len(ids), tower.dim)
        with evaluating(tower), autocast(device, precision):
            for start in range(0, len(ids), batch):
                rows = order[start : start + batch]
                vectors[rows] = tower(corpus.sequences(ids[rows], max_length).to(device)).float().cpu()
        return vectors

    return encode
