"""What each stage of a run trains, on what; a stage starts from the weights of those before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.data import DataLoader

from realm_train.build import build_open_qa, build_reader, build_towers
from realm_train.callbacks.adoption import Adoption
from realm_train.callbacks.cold_start import ColdStart
from realm_train.callbacks.heldout import HeldOut
from realm_train.callbacks.qa_heldout import QaHeldOut
from realm_train.callbacks.refresh import MODES
from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.checkpoints import Weights
from realm_train.data.corpus import Corpus
from realm_train.data.ict import ClozePairs
from realm_train.data.masked import MaskedSentences, ReadingSentences
from realm_train.data.oracle import Oracle
from realm_train.data.question_examples import QuestionExamples
from realm_train.data.questions import Question, read_questions
from realm_train.errors import BadInput
from realm_train.fitting import fit, make_trainer, optimization
from realm_train.models.realm import Realm
from realm_train.stage_examples import cloze, cloze_pairs, masked_sentences
from realm_train.tasks.ict import IctTask
from realm_train.tasks.masked_lm import MaskedLmTask
from realm_train.tasks.open_qa import OpenQaTask
from realm_train.tasks.pretrain import PretrainTask
from realm_train.tasks.question_retrieval import QuestionRetrieval
from realm_train.tasks.retrieval import Retrieval


def train_ict(cfg: DictConfig, run: Path, corpus: Corpus, weights: Weights) -> None:
    """The retriever alone, on the inverse cloze task."""
    task = IctTask(build_towers(cfg, corpus, weights), optimization(cfg.ict))
    heldout = ClozePairs(corpus, **cloze(cfg), seed=0, heldout=True)
    trainer = make_trainer(cfg, run, "ict")
    fit(trainer, task, cloze_pairs(cfg, corpus), cfg, run, "ict")
    size = cfg.ict.micro_batch_size
    count = min(cfg.ict.heldout, len(heldout.order.items)) // size * size
    if count:
        batches = DataLoader(heldout.micro_batches(range(count), size), batch_size=None, collate_fn=as_it_is)
        trainer.validate(task, batches, verbose=False)


def train_mlm(cfg: DictConfig, run: Path, corpus: Corpus, weights: Weights) -> None:
    """The reader alone, without retrieval."""
    sentences = masked_sentences(cfg, corpus, "mlm", oracle=Oracle(corpus) if cfg.mlm.oracle else None)
    task = MaskedLmTask(
        build_reader(cfg, corpus, weights),
        optimization(cfg.mlm),
        sep_id=corpus.sep_id,
        max_joint_length=cfg.query_length + cfg.passage_length,
    )
    examples = ReadingSentences(sentences, body_length=cfg.passage_length)
    fit(make_trainer(cfg, run, "mlm"), task, examples, cfg, run, "mlm")


def train_realm(cfg: DictConfig, run: Path, corpus: Corpus, weights: Weights) -> None:
    """Retriever and reader together."""
    settings = cfg.pretrain
    realm = Realm(
        build_towers(cfg, corpus, weights),
        build_reader(cfg, corpus, weights),
        sep_id=corpus.sep_id,
        max_joint_length=cfg.query_length + cfg.passage_length,
        null_score=settings.null_score,
    )
    retrieval = Retrieval(
        corpus,
        k=settings.k,
        margin=settings.margin,
        passage_length=cfg.passage_length,
        body_length=cfg.passage_length,
    )
    sentences = masked_sentences(cfg, corpus, "pretrain", seed=settings.heldout_seed, heldout=True)
    heldout = HeldOut(run, corpus, heldout_batches(sentences, settings.heldout), every=settings.evaluate_every)
    trainer = make_trainer(cfg, run, "pretrain")
    refresh = adoption(cfg, run, corpus, trainer, instantiate(cfg.refresh), heldout=heldout)
    # before the live table, which shows what they measure
    trainer.callbacks[:0] = [refresh, heldout, ColdStart(heldout, times_chance=settings.cold_start)]
    task = PretrainTask(realm, retrieval, optimization(settings), per=settings.per)
    fit(trainer, task, masked_sentences(cfg, corpus, "pretrain"), cfg, run, "pretrain")


def train_open_qa(cfg: DictConfig, run: Path, corpus: Corpus, weights: Weights) -> None:
    """Query tower and span reader, on questions; with `open_qa.refresh` the passage tower too, its index kept fresh."""
    settings = cfg.open_qa
    trainer = make_trainer(cfg, run, "open_qa")
    reading = {"regex": settings.regex, "name": settings.questions_name}
    questions = read_questions(cfg.questions, split="train", **reading)
    begins = settings.null_score == "learned" and "null_bias" not in weights
    heldout = QaHeldOut(
        heldout_questions(cfg, **reading),
        corpus,
        query_length=cfg.query_length,
        passage_length=cfg.passage_length,
        precision=trainer.precision,
        every=settings.evaluate_every,
        null_begins=questions[:256] if begins else (),
    )
    plan = instantiate(cfg.refresh) if settings.refresh else built_once(cfg)
    known = [Path(cfg.ckpt) / "index"]
    asked = heldout if heldout.batches else None
    refresh = adoption(cfg, run, corpus, trainer, plan, heldout=asked, reuse_from=known)
    trainer.callbacks[:0] = [refresh, heldout]
    task = OpenQaTask(
        build_open_qa(cfg, corpus, weights),
        QuestionRetrieval(corpus, beam=settings.beam, read=settings.read, body_length=cfg.passage_length),
        optimization(settings),
        passage_length=cfg.passage_length,
        freeze_passages=not settings.refresh,
        read_answer=settings.read_answer,
    )
    examples = QuestionExamples(questions, corpus, query_length=cfg.query_length, seed=cfg.seed)
    fit(trainer, task, examples, cfg, run, "open_qa")


def adoption(
    cfg: DictConfig, run: Path, corpus: Corpus, trainer: pl.Trainer, plan: RefreshPlan, **settings: Any
) -> Adoption:
    """The callback that keeps the index as `plan` says; `settings` are those of a stage."""
    return MODES[plan.mode](
        run,
        corpus,
        plan,
        instantiate(cfg.index),
        passage_length=cfg.passage_length,
        precision=trainer.precision,
        index_device=str(trainer.strategy.root_device),
        **settings,
    )


def heldout_questions(cfg: DictConfig, **reading: Any) -> list[Question]:
    """The first questions of the split dev, or of the file that is given for them."""
    if not cfg.open_qa.heldout:
        return []
    if cfg.dev_questions is not None:
        return read_questions(cfg.dev_questions, limit=cfg.open_qa.heldout, **reading)
    if Path(cfg.questions).is_file():
        raise BadInput(
            f"questions: got the one file {cfg.questions}; give dev_questions= to look at others while training, or"
            " open_qa.heldout=0"
        )
    return read_questions(cfg.questions, split="dev", limit=cfg.open_qa.heldout, **reading)


def built_once(cfg: DictConfig) -> RefreshPlan:
    """An index that is encoded before the first step and never again: the passage tower is frozen."""
    settings = cfg.refresh
    return RefreshPlan(
        mode="inline",
        every=cfg.open_qa.steps + 1,
        keep=settings.keep,
        dtype=settings.dtype,
        shard_size=settings.shard_size,
        final=False,
    )


def heldout_batches(sentences: MaskedSentences, count: int, size: int = 16) -> list:
    """The first `count` held-out sentences, at most one a passage."""
    count = min(count, len(sentences.order.items))
    return sentences.micro_batches(range(count), size)


def as_it_is(batch: Any) -> Any:
    """Our batches are collated already."""
    return batch


STAGES = {"ict": train_ict, "mlm": train_mlm, "pretrain": train_realm, "open_qa": train_open_qa}
