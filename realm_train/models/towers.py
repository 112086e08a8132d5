"""The retriever: f(x,z) = scale * Embed_query(x) . Embed_passage(z) (REALM, section 3.1)."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from realm_train.batch import Sequences
from realm_train.errors import BadInput
from realm_train.models.encoder import dropouts, encode_by_length

Pooling = Literal["cls", "mean"]


class Tower(nn.Module):
    """Token sequences -> vectors: the encoder's [CLS], projected to `dim`, through LayerNorm.

    `pooling="mean"` averages the tokens instead, for encoders that were trained so (Contriever, MiniLM).
    """

    def __init__(self, encoder: nn.Module, dim: int = 128, pooling: Pooling = "cls") -> None:
        super().__init__()
        if pooling not in ("cls", "mean"):
            raise BadInput(f"towers.pooling: got {pooling!r}, expected 'cls' or 'mean'")
        self.encoder, self.pooling = encoder, pooling
        self.projection = nn.Linear(encoder.config.hidden_size, dim)
        self.norm = nn.LayerNorm(dim)
        self.dim = dim

    def forward(self, sequences: Sequences) -> Float[Tensor, "N D"]:
        """fp32 vectors, in the order of the sequences; sequences of like length are encoded together."""
        if not len(sequences):
            return self.projection.weight.new_zeros(0, self.dim)
        groups, pooled = [], []
        for rows, hidden in encode_by_length(self.encoder, sequences):
            groups.append(rows)
            pooled.append(self._pooled(hidden, sequences.lengths[rows]))
        # the norm in fp32 also under autocast: trainer and refresher must agree on a passage's vector
        with torch.autocast(pooled[0].device.type, enabled=False):
            normed = self.norm(self.projection(torch.cat(pooled)))
        return normed[torch.argsort(torch.cat(groups))]

    def _pooled(self, hidden: Float[Tensor, "G T H"], lengths: Int[Tensor, " G"]) -> Float[Tensor, "G H"]:
        if self.pooling == "cls":
            return hidden[:, 0].float()
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        real = (columns < lengths[:, None]).unsqueeze(-1)
        return (hidden.float() * real).sum(dim=1) / lengths[:, None]

    @property
    def dropout(self) -> float:
        """The encoder's highest dropout: 0 means that training and evaluation vectors are the same."""
        return max(dropouts(self.encoder.config).values(), default=0.0)


class Towers(nn.Module):
    """Query tower and passage tower: one module when `shared`, two that share no storage when not."""

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dim: int = 128,
        pooling: Pooling = "cls",
        shared: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.passage = Tower(encoder, dim, pooling)
        self.query = self.passage if shared else copy.deepcopy(self.passage)
        self.shared, self.scale, self.dim = shared, scale, dim

    def scores(self, queries: Float[Tensor, "B D"], passages: Float[Tensor, "B K D"]) -> Float[Tensor, "B K"]:
        """f(x,z) of each question with its own K passages, in fp32."""
        with torch.autocast(queries.device.type, enabled=False):  # it would multiply in half precision
            return torch.einsum("bd,bkd->bk", queries.float(), passages.float()) * self.scale
