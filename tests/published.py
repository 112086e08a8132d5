"""A small random checkpoint with the key names of Hugging Face's REALM, and what it computes, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import torch

CONFIG = {
    "architectures": ["RealmForOpenQA"],
    "model_type": "realm",
    "vocab_size": 30522,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "hidden_act": "gelu_new",
    "max_position_embeddings": 160,
    "layer_norm_eps": 1e-12,
    "retriever_proj_size": 10,
    "span_hidden_size": 14,
    "max_span_width": 4,
    "reader_layer_norm_eps": 1e-3,
    "pad_token_id": 1,
}
WIDE, INNER, WORDS = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
State = dict[str, torch.Tensor]


def linear(name: str, wide: int, narrow: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (wide, narrow), f"{name}.bias": (wide,)}


def norm(name: str, wide: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (wide,), f"{name}.bias": (wide,)}


def bert_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {
        "realm.embeddings.word_embeddings.weight": (WORDS, WIDE),
        "realm.embeddings.position_embeddings.weight": (CONFIG["max_position_embeddings"], WIDE),
        "realm.embeddings.token_type_embeddings.weight": (2, WIDE),
        **norm("realm.embeddings.LayerNorm", WIDE),
        **linear("realm.pooler.dense", WIDE, WIDE),
    }
    for layer in (f"realm.encoder.layer.{number}" for number in range(CONFIG["num_hidden_layers"])):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= linear(f"{layer}.attention.{part}", WIDE, WIDE)
        shapes |= norm(f"{layer}.attention.output.LayerNorm", WIDE) | norm(f"{layer}.output.LayerNorm", WIDE)
        shapes |= linear(f"{layer}.intermediate.dense", INNER, WIDE) | linear(f"{layer}.output.dense", WIDE, INNER)
    return shapes


def predictions_shapes() -> dict[str, tuple[int, ...]]:
    head = "cls.predictions"
    return {
        f"{head}.bias": (WORDS,),
        **linear(f"{head}.transform.dense", WIDE, WIDE),
        **norm(f"{head}.transform.LayerNorm", WIDE),
    }


def random_state(shapes: dict[str, tuple[int, ...]], *, seed: int) -> State:
    """Weights large enough that each of them matters; a decoder that is the word embeddings, as it is saved."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in state:
        if name.endswith(("LayerNorm.weight", "layer_normalization.weight")):
            state[name] += 1.0
    if "cls.predictions.bias" in state:
        state["cls.predictions.decoder.weight"] = state["realm.embeddings.word_embeddings.weight"].clone()
        state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"].clone()
    state["realm.embeddings.position_ids"] = torch.arange(CONFIG["max_position_embeddings"])[None]
    return state


def embedder(seed: int) -> State:
    """A RealmEmbedder."""
    size = CONFIG["retriever_proj_size"]
    shapes = bert_shapes() | predictions_shapes() | linear("cls.dense", size, WIDE) | norm("cls.LayerNorm", size)
    return random_state(shapes, seed=seed)


def encoder(seed: int) -> State:
    """A RealmKnowledgeAugEncoder."""
    return random_state(bert_shapes() | predictions_shapes(), seed=seed)


def reader(seed: int) -> State:
    """A RealmReader."""
    size = CONFIG["span_hidden_size"]
    scorer = {
        **linear("qa_outputs.dense_intermediate", 2 * size, WIDE),
        **linear("qa_outputs.dense_output", 1, size),
        **norm("qa_outputs.layer_normalization", size),
    }
    return random_state(bert_shapes() | predictions_shapes() | scorer, seed=seed)


def open_qa(seed: int) -> State:
    """A RealmForOpenQA, with the index of five passages of another corpus."""
    inside = {"embedder": embedder(seed), "reader": reader(seed + 1)}
    state = {f"{part}.{name}": value for part, its in inside.items() for name, value in its.items()}
    return state | {"block_emb": torch.randn(5, CONFIG["retriever_proj_size"])}


def saved(folder: Path, state: State, *, file: str = "pytorch_model.bin") -> Path:
    """The folder of a checkpoint."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if file.endswith(".safetensors"):
        save_file(state, folder / file)
    else:
        torch.save(state, folder / file)
    return folder


def hidden_by_hand(state: State, ids: list[int], second: int) -> torch.Tensor:
    """BERT's last hidden states [T, H] of one row without padding; the second segment begins at `second`."""
    embeddings = "realm.embeddings"
    segments = (torch.arange(len(ids)) >= second).long()
    hidden = state[f"{embeddings}.word_embeddings.weight"][torch.tensor(ids)]
    hidden = hidden + state[f"{embeddings}.position_embeddings.weight"][: len(ids)]
    hidden = hidden + state[f"{embeddings}.token_type_embeddings.weight"][segments]
    hidden = layer_norm(state, f"{embeddings}.LayerNorm", hidden)
    for number in range(CONFIG["num_hidden_layers"]):
        layer = f"realm.encoder.layer.{number}"
        query, key, value = (
            heads(state, f"{layer}.attention.self.{name}", hidden) for name in ("query", "key", "value")
        )
        weights = (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        seen = (weights @ value).transpose(0, 1).reshape(len(ids), WIDE)
        attended = dense(state, f"{layer}.attention.output.dense", seen) + hidden
        attended = layer_norm(state, f"{layer}.attention.output.LayerNorm", attended)
        inner = gelu_new(dense(state, f"{layer}.intermediate.dense", attended))
        hidden = dense(state, f"{layer}.output.dense", inner) + attended
        hidden = layer_norm(state, f"{layer}.output.LayerNorm", hidden)
    return hidden


def vector_by_hand(state: State, ids: list[int], second: int) -> torch.Tensor:
    """RealmEmbedder's projected score of one row."""
    pooled = torch.tanh(dense(state, "realm.pooler.dense", hidden_by_hand(state, ids, second)[0]))
    return layer_norm(state, "cls.LayerNorm", dense(state, "cls.dense", pooled))


def logits_by_hand(state: State, ids: list[int], second: int) -> torch.Tensor:
    """RealmKnowledgeAugEncoder's logits [T, V]."""
    transform = "cls.predictions.transform"
    hidden = gelu_new(dense(state, f"{transform}.dense", hidden_by_hand(state, ids, second)))
    hidden = layer_norm(state, f"{transform}.LayerNorm", hidden)
    return hidden @ state["realm.embeddings.word_embeddings.weight"].T + state["cls.predictions.bias"]


def span_by_hand(state: State, hidden: torch.Tensor, start: int, end: int) -> float:
    """RealmReader's score of the span from piece `start` to piece `end`."""
    half = CONFIG["span_hidden_size"]
    name = "qa_outputs.dense_intermediate"
    starts, ends = dense(state, name, hidden[start])[:half], dense(state, name, hidden[end])[half:]
    both = torch.relu(starts + ends)
    both = layer_norm(state, "qa_outputs.layer_normalization", both, eps=CONFIG["reader_layer_norm_eps"])
    return float(dense(state, "qa_outputs.dense_output", both))


def dense(state: State, name: str, values: torch.Tensor) -> torch.Tensor:
    return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def heads(state: State, name: str, hidden: torch.Tensor) -> torch.Tensor:
    """[heads, T, width of a head]"""
    return dense(state, name, hidden).view(len(hidden), CONFIG["num_attention_heads"], -1).transpose(0, 1)


def layer_norm(state: State, name: str, values: torch.Tensor, eps: float = CONFIG["layer_norm_eps"]) -> torch.Tensor:
    centred = values - values.mean(dim=-1, keepdim=True)
    normed = centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return normed * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu_new(values: torch.Tensor) -> torch.Tensor:
    return 0.5 * values * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (values + 0.044715 * values**3)))
