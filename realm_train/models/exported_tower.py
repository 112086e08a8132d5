"""A tower as a folder that sentence-transformers and transformers both load; neither needs this project.

folder/
  config.json, model.safetensors, tokenizer*.json     the encoder: transformers' AutoModel and AutoTokenizer
  modules.json, 1_Pooling/, 2_Dense/, 3_LayerNorm/, … what sentence-transformers does with its output
  head.safetensors                                    the same for those who write it themselves
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from realm_train.models.span_reader import SpanReader
from realm_train.models.towers import Tower, UnitLength

OLDEST_READER = "3.0.0"  # release of sentence-transformers that knows all that is written here
ITS_EPS = 1e-5  # of sentence-transformers' LayerNorm, which has no other


def save_tower(tower: Tower, folder: Path, *, tokenizer: Any, max_length: int) -> None:
    """Writes all of the folder; `tokenizer` makes `[CLS] x [SEP]` and `[CLS] title [SEP] body [SEP]`."""
    from safetensors.torch import save_file

    tower.encoder.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    head = {f"{name}.{key}": value for name, layer in head_layers(tower) for key, value in layer.state_dict().items()}
    save_file(_plain(head), folder / "head.safetensors")
    modules = [("Transformer", {}, {}), ("Pooling", _pooling(tower), {}), *_behind_pooling(tower)]
    for number, (kind, config, weights) in enumerate(modules[1:], start=1):
        inside = folder / f"{number}_{kind}"
        inside.mkdir()
        _write(inside / "config.json", config)
        if weights:
            save_file(_plain(weights), inside / "model.safetensors")
    _write(folder / "modules.json", [_entry(number, kind) for number, (kind, *_) in enumerate(modules)])
    settings = {"max_seq_length": max_length, "do_lower_case": False}
    _write(
        folder / "sentence_bert_config.json", settings | ({"model_args": args} if (args := model_args(tower)) else {})
    )
    _write(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {
                "sentence_transformers": OLDEST_READER,
                "transformers": transformers.__version__,
                "pytorch": torch.__version__,
            },
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "dot",
        },
    )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes a fast tokenizer under the name of its class that releases 4 and 5 of transformers both know."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    _write(path, config | {"tokenizer_class": "PreTrainedTokenizerFast"})


def save_span_reader(reader: SpanReader, folder: Path) -> None:
    """Writes the encoder of a span reader, and its scorer as `head.safetensors`."""
    from safetensors.torch import save_file

    reader.encoder.save_pretrained(folder)
    scorer = {name: value for name, value in reader.state_dict().items() if not name.startswith("encoder.")}
    save_file(_plain(scorer), folder / "head.safetensors")


def head_layers(tower: Tower) -> list[tuple[str, nn.Module]]:
    """What stands between the pooled vector and the tower's, layer by layer, by the names in `head.safetensors`."""
    layers = [("pooler.dense", tower.encoder.pooler.dense), ("", nn.Tanh())] if tower.pooling == "pooler" else []
    return [*layers, *_flat("projection", tower.projection), *_flat("norm", tower.norm)]


def head_code(tower: Tower) -> list[str]:
    """The same as lines of Python over `vectors` and `head`, the tensors of `head.safetensors`."""
    lines = []
    for name, layer in head_layers(tower):
        if isinstance(layer, nn.Linear):
            bias = f', head["{name}.bias"]' if layer.bias is not None else ""
            lines.append(f'vectors = F.linear(vectors, head["{name}.weight"]{bias})')
        elif isinstance(layer, nn.LayerNorm):
            affine = f'head["{name}.weight"], head["{name}.bias"], eps={layer.eps}'
            lines.append(f"vectors = F.layer_norm(vectors, {tuple(layer.normalized_shape)}, {affine})")
        elif isinstance(layer, UnitLength):
            lines.append("vectors = F.normalize(vectors, dim=-1)")
        else:
            lines.append(f"vectors = torch.nn.{type(layer).__name__}()(vectors)")
    return lines


def model_args(tower: Tower) -> dict[str, bool]:
    """What `from_pretrained` must be told so that it does not make up a pooler that was never trained."""
    takes = "add_pooling_layer" in inspect.signature(type(tower.encoder).__init__).parameters
    return {"add_pooling_layer": False} if takes and getattr(tower.encoder, "pooler", None) is None else {}


def _behind_pooling(tower: Tower) -> Iterator[tuple[str, dict, dict[str, Tensor]]]:
    """Modules of sentence-transformers, their configuration and weights."""
    layers = [layer for _, layer in head_layers(tower)]
    for layer, following in pairwise([*layers, None]):
        if isinstance(layer, nn.Linear):
            activation = nn.Identity() if _is_own_module(following) else following
            yield _dense(layer.weight, layer.bias, activation)
        elif isinstance(layer, nn.LayerNorm):
            if layer.eps != ITS_EPS:  # LayerNorm(c x) with eps c² is LayerNorm(x) with eps 1
                yield _dense(torch.eye(len(layer.weight)) * (ITS_EPS / layer.eps) ** 0.5, None, nn.Identity())
            weights = {f"norm.{key}": value for key, value in layer.state_dict().items()}
            yield "LayerNorm", {"dimension": len(layer.weight)}, weights
        elif isinstance(layer, UnitLength):
            yield "Normalize", {}, {}


def _is_own_module(layer: nn.Module | None) -> bool:
    """Whether a layer is more than the activation of the Dense before it."""
    return layer is None or isinstance(layer, nn.Linear | nn.LayerNorm | UnitLength)


def _dense(weight: Tensor, bias: Tensor | None, activation: nn.Module) -> tuple[str, dict, dict[str, Tensor]]:
    kind = type(activation)
    config = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": f"{kind.__module__}.{kind.__qualname__}",
    }
    return "Dense", config, {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})


def _flat(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    if isinstance(module, nn.Sequential):
        return [layer for key, inner in module.named_children() for layer in _flat(f"{name}.{key}", inner)]
    return [] if isinstance(module, nn.Identity) else [(name, module)]


def _pooling(tower: Tower) -> dict[str, Any]:
    """As every release since 2.0 reads it."""
    mean = tower.pooling == "mean"
    return {
        "word_embedding_dimension": tower.encoder.config.hidden_size,
        "pooling_mode_cls_token": not mean,
        "pooling_mode_mean_tokens": mean,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }


def _entry(number: int, kind: str) -> dict[str, Any]:
    path = f"{number}_{kind}" if number else ""
    return {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
