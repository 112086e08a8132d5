"""Tasks over a real corpus with tiny random models: what tests of tasks share with the processes that they start."""

from __future__ import annotations

import warnings

import torch
from tiny_models import BERT, tiny_realm, tiny_towers

from realm_train.data.corpus import Corpus
from realm_train.data.masked import MaskedSentences
from realm_train.data.masking import SpanMasking
from realm_train.index.exact import ExactIndex
from realm_train.tasks.ict import IctTask
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.pretrain import PretrainTask
from realm_train.tasks.retrieval import Retrieval

REAL_WORDS = BERT | {"vocab_size": 30522, "initializer_range": 0.1}
TOWERS = {"scale": 0.2}


def random_index(corpus: Corpus, seed: int = 0) -> ExactIndex:
    """Vectors without a meaning, 16 wide."""
    return ExactIndex(torch.randn(len(corpus), 16, generator=torch.Generator().manual_seed(seed)))


def masked_sentences(corpus: Corpus, **settings) -> MaskedSentences:
    """Random spans: masks differ in number from sentence to sentence."""
    return MaskedSentences(corpus, SpanMasking(), **{"query_length": 40} | settings)


def pretrain_task(
    retrieval: Retrieval, *, config: dict = REAL_WORDS, towers: dict = TOWERS, **settings
) -> PretrainTask:
    """A tiny REALM, in training mode."""
    realm = tiny_realm(config=config, towers=towers, sep_id=retrieval.corpus.sep_id, max_joint_length=100)
    return PretrainTask(realm, retrieval, Optimization(steps=10), **settings).train()


def ict_task(**settings) -> IctTask:
    """Tiny towers, in training mode."""
    return IctTask(tiny_towers(config=REAL_WORDS, **TOWERS | settings), Optimization(steps=10)).train()


def fit(task, batches: list, *, steps: int = 1, **settings):
    """Trains for some steps with Lightning's own Trainer on the CPU, and returns it."""
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|torch")
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )
        trainer.fit(task, DataLoader(batches, batch_size=None, collate_fn=as_it_is))
    return trainer


def as_it_is(batch):
    return batch


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradient of every parameter that has one."""
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
