"""Encoders that compute in milliseconds, with random weights, and random sequences for them."""

from __future__ import annotations

import torch

from realm_train.batch import Sequences
from realm_train.models.encoder import load_encoder
from realm_train.models.reader import Reader
from realm_train.models.realm import Realm
from realm_train.models.towers import Towers

WORDS = 50
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
WIDE = {"initializer_range": 0.3}  # so that what is read makes a difference that can be seen
BERT = {"model_type": "bert", "vocab_size": WORDS, "max_position_embeddings": 160, **SIZE, **NO_DROPOUT, **WIDE}
ROBERTA = BERT | {
    "model_type": "roberta",
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
MODERNBERT = {
    **{"model_type": "modernbert", "vocab_size": WORDS, "max_position_embeddings": 160, **SIZE},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    **{"initializer_range": 0.3, "initializer_cutoff_factor": 2.0, "local_attention": 16},
}
DISTILBERT = {"model_type": "distilbert", "vocab_size": WORDS, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}


def tiny_towers(seed: int = 0, *, config: dict = BERT, **settings) -> Towers:
    """Random towers, 16 wide."""
    torch.manual_seed(seed)
    return Towers(load_encoder(config=config), **{"dim": 16} | settings)


def tiny_realm(seed: int = 0, *, config: dict = BERT, towers: dict | None = None, **settings) -> Realm:
    """Random towers and a random reader."""
    torch.manual_seed(seed + 100)
    reader = Reader.load(config=config)
    return Realm(tiny_towers(seed, config=config, **towers or {}), reader, **{"sep_id": 2} | settings)


def random_sequences(rows: int, *, longest: int = 40, shortest: int = 3, pad: int = 0, seed: int = 0) -> Sequences:
    """Padded rows of unequal lengths without a pad or a special id inside; the second segment begins anywhere."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (rows,), generator=generator)
    ids = torch.randint(5, WORDS, (rows, int(lengths.max())), generator=generator)
    ids[torch.arange(ids.shape[1]) >= lengths[:, None]] = pad
    second = (torch.rand(rows, generator=generator) * lengths).long()
    return Sequences(ids=ids, lengths=lengths, second=second)


def naive_hidden_states(encoder: torch.nn.Module, sequences: Sequences, row: int) -> torch.Tensor:
    """One row alone, without padding, through Hugging Face's own call: [T, H]."""
    return encoder(**naive_inputs(encoder, sequences, row)).last_hidden_state[0]


def naive_inputs(model: torch.nn.Module, sequences: Sequences, row: int) -> dict[str, torch.Tensor]:
    """Hugging Face's arguments for one row alone."""
    length, second = int(sequences.lengths[row]), int(sequences.second[row])
    inputs = {"input_ids": sequences.ids[row : row + 1, :length], "attention_mask": torch.ones(1, length).long()}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = torch.tensor([[0] * second + [1] * (length - second)])
    return inputs


def picked(sequences: Sequences, rows: torch.Tensor) -> Sequences:
    """Some rows, in the order asked for."""
    return Sequences(sequences.ids[rows], sequences.lengths[rows], sequences.second[rows])


def padded_wider(sequences: Sequences, columns: int) -> Sequences:
    """The same rows with more padding."""
    return Sequences(torch.nn.functional.pad(sequences.ids, (0, columns)), sequences.lengths, sequences.second)
