"""A sentence-transformers model as a tower to start from, read from its files: the library itself is not needed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.utils import cached_file

from realm_train.errors import BadInput
from realm_train.models.encoder import load_encoder
from realm_train.models.towers import Norm, Pooling, Towers, UnitLength

ACTIVATIONS = {"Identity": nn.Identity, "Tanh": nn.Tanh, "ReLU": nn.ReLU, "GELU": nn.GELU, "SiLU": nn.SiLU}
EXPECTED = "expected Transformer, Pooling by cls or mean, then any of Dense, LayerNorm, Normalize; choose another model"
Read = TypeVar("Read")


def sentence_transformer_towers(
    name: str,
    *,
    dim: int | None = None,
    norm: Norm | None = None,
    shared: bool = True,
    scale: float = 1.0,
    segments: bool = True,
    layers: int | None = None,
    dropout: float | None = None,
    attention: str | None = None,
    gradient_checkpointing: bool = False,
) -> Towers:
    """Towers that give the vectors of a sentence-transformers folder or hub name; with a `dim`, a new projection to it
    (then LayerNorm, or `norm`) follows what the model has.

    Raises BadInput for a model made of other parts than a tower can have.
    """
    modules = [(module["type"].rpartition(".")[2], module["path"]) for module in _json(name, "modules.json")]
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise BadInput(f"{name}: got the modules {', '.join(kinds)}, {EXPECTED}")
    _warn_of_prompts(name)
    encoder = load_encoder(
        name,
        subfolder=modules[0][1],
        layers=layers,
        dropout=dropout,
        attention=attention,
        gradient_checkpointing=gradient_checkpointing,
    )
    head = [part for kind, path in modules[2:] for part in _parts(name, kind, path)]
    if dim is not None:
        head.append(nn.Linear(_width(head, before=encoder.config.hidden_size), dim))
        norm = norm or "layer_norm"
    elif norm is None and head and isinstance(head[-1], UnitLength):
        head, norm = head[:-1], "l2"
    return Towers(
        encoder,
        dim=_width(head, before=encoder.config.hidden_size),
        projection=head[0] if len(head) == 1 else nn.Sequential(*head),
        pooling=_pooling(name, modules[1][1]),
        norm=norm or "none",
        shared=shared,
        scale=scale,
        segments=segments,
    )


def _pooling(name: str, path: str) -> Pooling:
    """The mode of a Pooling module; older releases wrote a flag for every mode."""
    config = _json(name, f"{path}/config.json")
    flags = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    modes = config.get("pooling_mode") or [
        flags.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on
    ]
    mode = modes[0] if len(modes) == 1 else modes
    if mode not in ("cls", "mean"):
        raise BadInput(f"{name}: got Pooling by {mode}, {EXPECTED}")
    return mode


def _parts(name: str, kind: str, path: str) -> list[nn.Module]:
    """The layers of a module behind the pooling."""
    if kind == "Normalize":
        return [UnitLength()]
    if kind == "Dropout":
        return []
    if kind == "LayerNorm":
        return [_layer_norm(_weights(name, path, prefix="norm."))]
    if kind != "Dense":
        raise BadInput(f"{name}: got the module {kind}, {EXPECTED}")
    config = _json(name, f"{path}/config.json")
    activation = config.get("activation_function", "Tanh").rpartition(".")[2]
    odd = config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding"
    if odd or activation not in ACTIVATIONS:
        raise BadInput(f"{name}: got a Dense of {config}, expected one of a vector with {', '.join(ACTIVATIONS)}")
    linear = _linear(_weights(name, path, prefix="linear."))
    return [linear] if activation == "Identity" else [linear, ACTIVATIONS[activation]()]


def _linear(weights: dict[str, Tensor]) -> nn.Linear:
    wide, narrow = weights["weight"].shape
    layer = nn.Linear(narrow, wide, bias="bias" in weights)
    layer.load_state_dict(weights)
    return layer


def _layer_norm(weights: dict[str, Tensor]) -> nn.LayerNorm:
    layer = nn.LayerNorm(len(weights["weight"]))
    layer.load_state_dict(weights)
    return layer


def _width(head: Sequence[nn.Module], *, before: int) -> int:
    """How wide a vector is after these layers."""
    return next((part.out_features for part in reversed(head) if isinstance(part, nn.Linear)), before)


def _json(name: str, file: str) -> Any:
    def read(path: str) -> Any:
        with open(path, encoding="utf-8") as opened:
            return json.load(opened)

    return _file(name, file, read)


def _weights(name: str, path: str, *, prefix: str) -> dict[str, Tensor]:
    """The fp32 tensors of a module, from safetensors or as older releases saved them."""
    from safetensors.torch import load_file

    weights = None
    with suppress(BadInput):
        weights = _file(name, f"{path}/model.safetensors", load_file)
    if weights is None:
        weights = _file(name, f"{path}/pytorch_model.bin", lambda file: torch.load(file, "cpu", weights_only=True))
    return {key.removeprefix(prefix): value.float() for key, value in weights.items()}


def _file(name: str, file: str, read: Callable[[str], Read]) -> Read:
    """What a file of a local folder or of a hub name holds."""
    try:
        return read(cached_file(name, file))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{name}: {file} cannot be read ({str(error).splitlines()[0]}); give the folder or the hub name of a"
            " sentence-transformers model"
        ) from error


def _warn_of_prompts(name: str) -> None:
    """Some models were trained with words such as "query: " before every text; here none are."""
    prompts: dict = {}
    with suppress(BadInput):
        prompts = _json(name, "config_sentence_transformers.json").get("prompts") or {}
    if any(prompts.values()):
        warnings.warn(f"{name}: its prompts {prompts} are not put before questions and passages", stacklevel=3)
