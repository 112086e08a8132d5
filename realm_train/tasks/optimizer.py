"""AdamW with linear warm-up and decay, as BERT and REALM are trained; biases and norms do not decay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Optimization:
    """How to step: peak learning rates, and steps counted in optimiser steps.

    `lr_retriever` is for the towers where it differs from `lr`, `lr_null` for the learned null score; `warmup` defaults
    to a tenth of the run, at least 10 and at most 10,000 steps.
    """

    steps: int
    lr: float = 3e-5
    lr_retriever: float | None = None
    lr_null: float = 1e-2
    weight_decay: float = 0.01
    warmup: int | None = None

    def configure(self, groups: Iterable[tuple[nn.Module, float]], *, precision: str = "32-true") -> dict:
        """Lightning's dictionary for modules with their learning rates; a parameter met twice counts once.

        Fused is eight times as fast on the CPU; fp16 has a gradient scaler that Lightning cannot clip with it.
        """
        optimizer = torch.optim.AdamW(
            list(self._parameter_groups(groups)), betas=(0.9, 0.999), eps=1e-6, fused=precision != "16-mixed"
        )
        # a plain function: of any other callable LambdaLR saves the attributes in the checkpoint
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def peak_retriever(self) -> float:
        """The towers' peak learning rate; 0 is a rate, and freezes them."""
        return self.lr if self.lr_retriever is None else self.lr_retriever

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at an optimiser step."""
        warmup = min(10_000, max(10, self.steps // 10)) if self.warmup is None else self.warmup
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return max(0.0, (self.steps - step) / max(1, self.steps - warmup))

    def _parameter_groups(self, groups: Iterable[tuple[nn.Module, float]]) -> Iterable[dict]:
        seen: set[int] = set()
        for module, lr in groups:
            fresh = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
            seen.update(id(p) for p in fresh)
            for decays in (True, False):
                chosen = [p for p in fresh if (p.dim() > 1) == decays]
                if chosen:
                    yield {"params": chosen, "lr": lr, "weight_decay": self.weight_decay if decays else 0.0}
