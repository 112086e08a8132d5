"""DPR's two encoders as towers to start from (Karpukhin et al., 2020): [CLS] of a BERT each, inner products."""

from __future__ import annotations

from typing import Literal

import transformers
from torch import nn

from realm_train.errors import BadInput
from realm_train.models.encoder import checkpoint_activations, load
from realm_train.models.towers import Norm, Towers

CLASSES = {"ctx": transformers.DPRContextEncoder, "question": transformers.DPRQuestionEncoder}


def dpr_towers(
    passage: str,
    query: str,
    *,
    dim: int | None = None,
    norm: Norm = "none",
    shared: bool = False,
    scale: float = 1.0,
    segments: bool = False,
    layers: int | None = None,
    dropout: float | None = None,
    attention: str | None = None,
    gradient_checkpointing: bool = False,
) -> Towers:
    """Untied towers from the folders or hub names of a DPRContextEncoder and a DPRQuestionEncoder; a projection of
    theirs comes along, unless `dim` asks for a new one. DPR was trained without segments.

    Raises BadInput for what is no such encoder, and for `shared` towers.
    """
    if shared:
        raise BadInput("towers: got shared=true, but DPR has two encoders; set model.towers.shared=false")
    settings = {"layers": layers, "dropout": dropout, "attention": attention}
    passages, projection = _encoder(passage, "ctx", **settings)
    queries, query_projection = _encoder(query, "question", **settings)
    if gradient_checkpointing:
        checkpoint_activations(passages)
        checkpoint_activations(queries)
    own = dim is None and projection is not None
    towers = Towers(
        passages,
        query_encoder=queries,
        dim=projection.out_features if own else dim,
        projection=projection if own else None,
        shared=False,
        scale=scale,
        norm=norm,
        segments=segments,
    )
    if own:
        towers.query.projection = query_projection
    return towers


def _encoder(
    name: str, part: Literal["ctx", "question"], *, layers: int | None, dropout: float | None, attention: str | None
) -> tuple[nn.Module, nn.Linear | None]:
    """The BERT of a DPR encoder, and its projection if it has one."""
    model, missing = load(CLASSES[part], name, config=None, layers=layers, dropout=dropout, attention=attention)
    if missing:
        raise BadInput(
            f"{name}: got weights without {min(missing)}, expected those of a {CLASSES[part].__name__}; passage= is a"
            " DPRContextEncoder, query= a DPRQuestionEncoder"
        )
    inner, settings = getattr(model, f"{part}_encoder"), model.config.to_dict()
    del settings["projection_dim"]
    config = transformers.BertConfig(**settings | {"model_type": "bert"}, attn_implementation=attention)
    bert = transformers.BertModel(config, add_pooling_layer=False)
    bert.load_state_dict(inner.bert_model.state_dict())
    return bert.eval(), getattr(inner, "encode_proj", None)
