"""The stream of examples that each stage of a configuration draws from: a pure function of it and of the corpus."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from realm_train.data.corpus import Corpus
from realm_train.data.ict import ClozePairs
from realm_train.data.masked import MaskedSentences
from realm_train.data.oracle import Oracle


def sampling(cfg: DictConfig, stage: str) -> dict[str, Any]:
    """Which sentences a stage takes, and how much of them."""
    return {
        "query_length": cfg.query_length,
        "min_length": cfg[stage].min_length,
        "heldout_percent": cfg.heldout_percent,
    }


def cloze_pairs(cfg: DictConfig, corpus: Corpus) -> ClozePairs:
    """What the stage ict trains on."""
    across = masked_sentences(cfg, corpus, "ict", oracle=Oracle(corpus)) if cfg.ict.across_rate else None
    return ClozePairs(corpus, **cloze(cfg), seed=cfg.seed, across=across, across_rate=cfg.ict.across_rate)


def cloze(cfg: DictConfig) -> dict[str, Any]:
    """How the stage ict makes a pair of a sentence and its passage."""
    return {**sampling(cfg, "ict"), "passage_length": cfg.passage_length, "keep_rate": cfg.ict.keep_rate}


def masked_sentences(cfg: DictConfig, corpus: Corpus, stage: str, **settings: Any) -> MaskedSentences:
    """The masked sentences of a stage: those that it trains on, unless `settings` say otherwise."""
    return MaskedSentences(corpus, instantiate(cfg.masking), **{**sampling(cfg, stage), "seed": cfg.seed, **settings})


STREAMS = {
    "ict": cloze_pairs,
    "mlm": lambda cfg, corpus: masked_sentences(cfg, corpus, "mlm"),
    "pretrain": lambda cfg, corpus: masked_sentences(cfg, corpus, "pretrain"),
}
"""The stages that draw sentences from the corpus."""
