"""REALM as it was published, in the names of Hugging Face's classes: RealmEmbedder, RealmScorer, RealmReader,
RealmKnowledgeAugEncoder and RealmForOpenQA.

realm.*                                BERT of an embedder or a reader
cls.{dense,LayerNorm}.*                an embedder's projection, of the pooled [CLS]
cls.predictions.*                      masked language model's head (an embedder has one, and never uses it)
qa_outputs.*                           ORQA's scorer of spans
embedder.*, query_embedder.*, reader.* the same inside a larger class; block_emb is the index of its own corpus
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from realm_train.errors import BadInput

BERT_KEYS = {  # of its configuration, with the published values where a file leaves them out
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
SPAN_KEYS = {"span_hidden_size": 256, "max_span_width": 10, "reader_layer_norm_eps": 1e-3}
OUR_EPS = 1e-5  # of the span reader's LayerNorm
UNUSED = ("block_emb", "position_ids", "token_type_ids")  # the index of another corpus, and constants
State = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """An embedder, a query embedder of its own, or a reader: its weights by the names above, and all settings."""

    source: Path
    settings: dict[str, Any]
    state: State

    @property
    def bert(self) -> dict[str, Any]:
        """The configuration of its BERT, for `load_encoder`."""
        return {"model_type": "bert", **{key: self.settings[key] for key in BERT_KEYS}}

    def tower(self) -> State:
        """An embedder's weights by the names of our Tower with `pooling="pooler"`."""
        names = {"realm.": "encoder.", "cls.dense.": "projection.", "cls.LayerNorm.": "norm."}
        return _renamed(self.state, names)

    def masked_lm(self) -> State:
        """A reader's weights by the names of our Reader; the decoder is the word embeddings."""
        state = _renamed(_without_pooler(self.state), {"realm.": "masked_lm.bert.", "cls.": "masked_lm.cls."})
        head = "masked_lm.cls.predictions"
        state[f"{head}.decoder.weight"] = state["masked_lm.bert.embeddings.word_embeddings.weight"]
        state[f"{head}.decoder.bias"] = state[f"{head}.bias"]
        return state

    def span_reader(self) -> State:
        """A reader's weights by the names of our SpanReader.

        Its LayerNorm has another eps, which a factor before it makes up for: LayerNorm(c h) with eps c² is LayerNorm(h)
        with eps 1, and relu(c h) = c relu(h).
        """
        names = {
            "realm.": "encoder.",
            "qa_outputs.dense_intermediate.": "projection.",
            "qa_outputs.layer_normalization.": "norm.",
            "qa_outputs.dense_output.": "output.",
        }
        state = _renamed(_without_pooler(self.state), names)
        factor = (OUR_EPS / self.settings["reader_layer_norm_eps"]) ** 0.5
        return state | {name: state[name] * factor for name in ("projection.weight", "projection.bias")}


def read_published(source: Path) -> dict[str, Part]:
    """The parts of a folder or file: `embedder`, `query_embedder`, `reader` (masked language model), `span_reader`, and
    `question_embedder`, the embedder of a RealmForOpenQA, which was fine-tuned for questions alone.

    Raises BadInput for what is no such checkpoint, or has no config.json beside it.
    """
    files = [source] if source.is_file() else _weight_files(source)
    settings = BERT_KEYS | SPAN_KEYS | _settings(files[0].parent / "config.json")
    state = {name.removeprefix("module."): value for file in files for name, value in _tensors(file)}
    inner = {part: _under(f"{part}.", state) for part in ("embedder", "query_embedder", "reader")}
    found = {part: tensors for part, tensors in inner.items() if tensors} or {_kind(state): state}
    if "reader" in found and "embedder" in found:  # RealmForOpenQA
        found["question_embedder"] = found.pop("embedder")
    if "reader" in found and any(name.startswith("qa_outputs.") for name in found["reader"]):
        found["span_reader"] = _leaving(found["reader"], "cls.")
        found["reader"] = _leaving(found["reader"], "qa_outputs.")
    parts = {name: Part(source, settings, tensors) for name, tensors in found.items() if _is_whole(name, tensors)}
    if not parts:
        raise BadInput(
            f"{source}: got weights named {', '.join(sorted(state)[:3])}, …, expected those of RealmEmbedder,"
            " RealmScorer, RealmReader, RealmKnowledgeAugEncoder or RealmForOpenQA"
        )
    return parts


def _kind(state: State) -> str:
    """What a state dict with `realm.*` at its top is of."""
    return "embedder" if "cls.dense.weight" in state else "reader"


def _is_whole(name: str, state: State) -> bool:
    needed = {
        "reader": "cls.predictions.bias",
        "span_reader": "qa_outputs.dense_output.weight",
    }.get(name, "cls.dense.weight")
    return needed in state and "realm.embeddings.word_embeddings.weight" in state


def _under(prefix: str, state: State) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _leaving(state: State, prefix: str) -> State:
    return {name: value for name, value in state.items() if not name.startswith(prefix)}


def _without_pooler(state: State) -> State:
    return _leaving(state, "realm.pooler.")


def _renamed(state: State, names: Mapping[str, str]) -> State:
    """The weights whose names begin as told, by their new names."""
    return {
        new + name.removeprefix(old): value
        for name, value in state.items()
        for old, new in names.items()
        if name.startswith(old)
    }


def _weight_files(folder: Path) -> list[Path]:
    """Those of the first format that the folder has; one that holds several is a set of shards."""
    for pattern in ("*.safetensors", "*.bin", "*.pt"):
        if files := sorted(folder.glob(pattern)):
            return files
    raise BadInput(f"{folder}: no model.safetensors, pytorch_model.bin or *.pt; give the folder of a REALM checkpoint")


def _settings(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); put the checkpoint's config.json there") from error
    return {key: value for key, value in config.items() if value is not None}


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The fp32 weights of a file, without what is of no use here, which is not even read."""
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                yield from ((name, opened.get_tensor(name).float()) for name in filter(_is_used, opened.keys()))
        else:
            saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            saved = saved.get("state_dict", saved)
            yield from ((name, value.float()) for name, value in saved.items() if _is_used(name))
    except (OSError, RuntimeError, ValueError, AttributeError, SafetensorError) as error:
        raise BadInput(f"{file}: cannot be read as weights ({str(error).splitlines()[0]})") from error


def _is_used(name: str) -> bool:
    return name.rpartition(".")[2] not in UNUSED
