"""The retriever: f(x,z) = scale * Embed_query(x) . Embed_passage(z) (REALM, section 3.1)."""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from realm_train.batch import Sequences
from realm_train.errors import BadInput
from realm_train.models.encoder import dropouts, encode_by_length

Pooling = Literal["cls", "mean", "pooler"]
Norm = Literal["layer_norm", "l2", "none"]


class UnitLength(nn.Module):
    """Vectors of length 1, so that inner products are cosines."""

    def forward(self, vectors: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The same directions."""
        return nn.functional.normalize(vectors, dim=-1)


class Tower(nn.Module):
    """Token sequences -> vectors: the encoder's [CLS], projected to `dim`, through LayerNorm.

    `pooling="mean"` averages the tokens instead, for encoders that were trained so (Contriever, MiniLM), `"pooler"`
    takes the encoder's own pooler of [CLS] (published REALM). `dim=None` keeps the encoder's width, without a
    projection; a `projection` of one's own stands in for the linear one. `norm` is what comes last: `layer_norm`,
    `l2` (unit length), or `none`. `segments=False` tells the encoder nothing of a second segment (DPR).
    """

    def __init__(
        self,
        encoder: nn.Module,
        dim: int | None = 128,
        pooling: Pooling = "cls",
        *,
        norm: Norm = "layer_norm",
        norm_eps: float = 1e-5,
        segments: bool = True,
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _expect("towers.pooling", pooling, get_args(Pooling))
        _expect("towers.norm", norm, get_args(Norm))
        self.encoder, self.pooling, self.segments = _with_pooler_if(pooling == "pooler", encoder), pooling, segments
        width = encoder.config.hidden_size
        if projection is None:
            projection = nn.Identity() if dim is None else nn.Linear(width, dim)
        self.projection = projection
        self.dim = width if dim is None else dim
        self.norm = _norm(norm, dim=self.dim, eps=norm_eps)

    def forward(self, sequences: Sequences) -> Float[Tensor, "N D"]:
        """fp32 vectors, in the order of the sequences; sequences of like length are encoded together."""
        if not len(sequences):
            return next(self.parameters()).new_zeros(0, self.dim)
        groups, pooled = [], []
        for rows, hidden in encode_by_length(self.encoder, sequences, segments=self.segments):
            groups.append(rows)
            pooled.append(self._pooled(hidden, sequences.lengths[rows]))
        # the norm in fp32 also under autocast: trainer and refresher must agree on a passage's vector
        with torch.autocast(pooled[0].device.type, enabled=False):
            together = torch.cat(pooled)
            if self.pooling == "pooler":
                together = self.encoder.pooler(together[:, None])
            normed = self.norm(self.projection(together))
        return normed[torch.argsort(torch.cat(groups))]

    def _pooled(self, hidden: Float[Tensor, "G T H"], lengths: Int[Tensor, " G"]) -> Float[Tensor, "G H"]:
        if self.pooling != "mean":
            return hidden[:, 0].float()
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        real = (columns < lengths[:, None]).unsqueeze(-1)
        return (hidden.float() * real).sum(dim=1) / lengths[:, None]

    @property
    def dropout(self) -> float:
        """The encoder's highest dropout: 0 means that training and evaluation vectors are the same."""
        return max(dropouts(self.encoder.config).values(), default=0.0)


class Towers(nn.Module):
    """Query tower and passage tower: one module when `shared`, two that share no storage when not.

    Untied towers start alike, or the query tower from a `query_encoder` of its own (DPR); the rest is as in `Tower`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dim: int | None = 128,
        pooling: Pooling = "cls",
        shared: bool = True,
        scale: float = 1.0,
        norm: Norm = "layer_norm",
        norm_eps: float = 1e-5,
        segments: bool = True,
        projection: nn.Module | None = None,
        query_encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if shared and query_encoder is not None:
            raise BadInput("towers: got shared=true and a query_encoder, expected one of them; set towers.shared=false")
        head = {"norm": norm, "norm_eps": norm_eps, "segments": segments, "projection": projection}
        self.passage = Tower(encoder, dim, pooling, **head)
        self.query = self.passage if shared else copy.deepcopy(self.passage)
        if query_encoder is not None:
            self.query.encoder = _with_pooler_if(pooling == "pooler", query_encoder)
        self.shared, self.scale, self.dim = shared, scale, self.passage.dim

    def scores(self, queries: Float[Tensor, "B D"], passages: Float[Tensor, "B K D"]) -> Float[Tensor, "B K"]:
        """f(x,z) of each question with its own K passages, in fp32."""
        with torch.autocast(queries.device.type, enabled=False):  # it would multiply in half precision
            return torch.einsum("bd,bkd->bk", queries.float(), passages.float()) * self.scale


def _norm(norm: Norm, *, dim: int, eps: float) -> nn.Module:
    if norm == "layer_norm":
        return nn.LayerNorm(dim, eps=eps)
    return UnitLength() if norm == "l2" else nn.Identity()


def _with_pooler_if(wanted: bool, encoder: nn.Module) -> nn.Module:
    """The encoder, without a pooler that is not used: a layer without gradient would stop DDP."""
    pooler = getattr(encoder, "pooler", None)
    if wanted and pooler is None:
        raise BadInput(
            f"towers.pooling: got 'pooler', but {type(encoder).__name__} has none; take 'cls' or 'mean', or an encoder"
            " of the BERT family with model.towers.encoder.pooler=true"
        )
    if not wanted and pooler is not None:
        encoder.pooler = None
    return encoder


def _expect(key: str, got: str, options: tuple[str, ...]) -> None:
    if got not in options:
        raise BadInput(f"{key}: got {got!r}, expected {', '.join(map(repr, options[:-1]))} or {options[-1]!r}")
