"""From configuration and weights to models: what every entry point that has a run needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from realm_train.checkpoints import Weights
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.models.open_qa import OpenQa
from realm_train.models.reader import Reader
from realm_train.models.span_reader import SpanReader
from realm_train.models.towers import Towers

Trained = TypeVar("Trained", bound=torch.nn.Module)


def build(config: DictConfig) -> Any:
    """The object of a `_target_` whose nested mappings reach it as plain dicts."""
    return instantiate(config, _convert_="all")


def build_towers(cfg: DictConfig, corpus: Corpus, weights: Weights | None = None) -> Towers:
    """The towers of the configuration, with trained weights where there are any."""
    towers = build(cfg.model.towers)
    check_vocabulary(towers.passage.encoder.config.vocab_size, corpus)
    return with_weights(towers, (weights or {}).get("towers"))


def build_reader(cfg: DictConfig, corpus: Corpus, weights: Weights) -> Reader:
    """The reader of the configuration, with trained weights where there are any."""
    reader = build(cfg.model.reader)
    check_vocabulary(reader.masked_lm.config.vocab_size, corpus)
    return with_weights(reader, weights.get("reader"))


def build_open_qa(cfg: DictConfig, corpus: Corpus, weights: Weights) -> OpenQa:
    """Towers, a span reader over the encoder of the configuration's reader, and the null score: those that fine-tuning
    has trained, or pretraining."""
    reader = build_reader(cfg, corpus, weights)
    span_reader = SpanReader(reader.masked_lm.base_model, width=cfg.open_qa.width, max_span=cfg.open_qa.max_span)
    qa = OpenQa(
        build_towers(cfg, corpus, weights),
        with_weights(span_reader, weights.get("span_reader")),
        sep_id=corpus.sep_id,
        max_joint_length=cfg.query_length + cfg.passage_length,
        null_score=cfg.open_qa.null_score,
    )
    if qa.null_bias is not None and "null_bias" in weights:
        with torch.no_grad():
            qa.null_bias.copy_(weights["null_bias"][""])
    return qa


def check_vocabulary(pieces: int, corpus: Corpus) -> None:
    """Raises BadInput if the corpus has word pieces that a model does not know."""
    tokenizer = corpus.manifest["tokenizer"]
    if pieces < tokenizer["vocab_size"]:
        raise BadInput(
            f"model: has {pieces} word pieces, but the corpus {corpus.folder} was tokenised with"
            f" {tokenizer['vocab_size']} ({tokenizer['name']}); prepare the corpus with the model's tokenizer"
        )


def with_weights(module: Trained, weights: dict[str, torch.Tensor] | None) -> Trained:
    """The module with these weights; raises BadInput if they are of another architecture."""
    if weights:
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            raise BadInput(
                f"checkpoint: its {type(module).__name__} does not fit the configuration; use the model= that it was"
                f" trained with ({str(error).splitlines()[1].strip()})"
            ) from error
    return module


def check_lengths(corpus: Corpus, passage_length: int) -> None:
    """Raises BadInput if a model that reads `passage_length` word pieces would miss the ends of passages."""
    if corpus.manifest["max_length"] > passage_length:
        raise BadInput(
            f"passage_length: got {passage_length}, but the passages of {corpus.folder} have up to"
            f" {corpus.manifest['max_length']} word pieces, whose ends would never be read; raise passage_length, or"
            f" prepare the corpus with max_length={passage_length}"
        )


def chosen_precision(cfg: DictConfig) -> str:
    """The precision of the configuration; auto is bf16-mixed where GPU or CPU multiplies it natively, else 32-true."""
    if cfg.trainer.precision != "auto":
        return str(cfg.trainer.precision)
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    flags = Path("/proc/cpuinfo")
    native = flags.exists() and {"avx512_bf16", "amx_bf16"} & set(flags.read_text().split())
    return "bf16-mixed" if native else "32-true"
