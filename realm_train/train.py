"""`python -m realm_train.train experiment=…`: ICT warm start, REALM pretraining, or both, in one run folder."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from realm_train.build import build_reader, build_towers, check_lengths, chosen_precision
from realm_train.callbacks import provenance
from realm_train.callbacks.cold_start import ColdStart
from realm_train.callbacks.heldout import HeldOut
from realm_train.callbacks.live import Live
from realm_train.callbacks.metrics import JsonlLogger
from realm_train.callbacks.randomness import Randomness
from realm_train.callbacks.refresh import MODES
from realm_train.callbacks.stage_clock import StageClock
from realm_train.callbacks.throughput import Throughput
from realm_train.checkpoints import Weights, finished, last_checkpoint, read_checkpoint, trained_on, weights_of
from realm_train.command import command, resolved
from realm_train.data.corpus import Corpus
from realm_train.data.ict import ClozePairs
from realm_train.data.masked import MaskedSentences, ReadingSentences
from realm_train.data.oracle import Oracle
from realm_train.data.sampling import StepLoader
from realm_train.errors import BadInput
from realm_train.models.realm import Realm
from realm_train.tasks.ict import IctTask
from realm_train.tasks.masked_lm import MaskedLmTask
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.pretrain import PretrainTask
from realm_train.tasks.retrieval import Retrieval


@command("train")
def main(cfg: DictConfig) -> None:
    """Runs the stages that are not finished yet; see conf/train.yaml."""
    quiet()
    run, corpus = Path(cfg.run), Corpus(cfg.corpus)
    check_lengths(corpus, cfg.passage_length)
    if "pretrain" in cfg.stages:
        check_pretraining(cfg)  # before hours are spent on the stages that come first
    open_run(run, cfg, corpus)
    if all(finished(run, stage) for stage in cfg.stages):
        print(f"{run}: done already; python -m realm_train.report {run} draws the report")
        return
    OmegaConf.save(OmegaConf.create(resolved(cfg)), run / "config.yaml")
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    prepare = {"passages": corpus.manifest.get("seconds", 0.0)}
    if "pretrain" in cfg.stages and instantiate(cfg.masking).needs_spans:
        prepare["spans"] = corpus.span_manifest.get("seconds", 0.0)
    data = {"corpus": corpus.hash, "passages": corpus.count, "counts": corpus.manifest["counts"]}
    provenance.start(run, command=shlex.join(["python", *sys.orig_argv[1:]]), data=data, prepare=prepare)
    weights = {} if cfg.retriever is None else weights_of(last_checkpoint(Path(cfg.retriever)), "towers")
    for stage in cfg.stages:
        if not finished(run, stage):
            pl.seed_everything(cfg.seed, workers=True, verbose=False)
            STAGES[stage](cfg, run, corpus, weights)
            (run / "checkpoints" / stage / "DONE").touch()
        weights |= weights_of(last_checkpoint(run, stage), "towers", "reader")
    if cfg.wandb is not None:
        finish_wandb()
    print(f"{run}: done; python -m realm_train.report {run} draws the report")


def quiet() -> None:
    """Hides what Lightning says to everybody; what it says about this run stays."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*have no `val_dataloader`.*",
        ".*treespec.*",
        ".*does not have many workers.*",
        ".*checkpoints.*exists and is not empty.*",  # a resumed run
        ".*wandb run already in progress.*",  # its stages are one run
    ):
        warnings.filterwarnings("ignore", message=message)


def check_pretraining(cfg: DictConfig) -> None:
    """Raises BadInput for settings of the last stage that cannot be."""
    expect_one_of("pretrain.per", cfg.pretrain.per, ("token", "span"))
    expect_one_of("pretrain.null_score", cfg.pretrain.null_score, ("tower", "learned"))
    instantiate(cfg.refresh)
    instantiate(cfg.index)


def open_run(run: Path, cfg: DictConfig, corpus: Corpus) -> None:
    """Makes the run folder; refuses to write into another run's, and to go on with another corpus."""
    unknown = set(cfg.stages) - set(STAGES)
    if unknown:
        raise BadInput(f"stages: got {sorted(unknown)}, expected some of {list(STAGES)}")
    if cfg.ckpt_path not in (None, "last"):
        raise BadInput(f"ckpt_path: got {cfg.ckpt_path!r}, expected last (go on with run={run}) or nothing")
    if cfg.ckpt_path is None and (run / "metrics.jsonl").exists():
        raise BadInput(f"{run}: holds a run already; give ckpt_path=last to go on with it, or another name=")
    if (known := trained_on(run)) not in (None, corpus.hash):
        raise BadInput(
            f"{run}: was trained on corpus {known[:12]}…, but {corpus.folder} is {corpus.hash[:12]}…; give the corpus="
            " that it was trained on to go on with it, or another name= to start anew on this one"
        )
    run.mkdir(parents=True, exist_ok=True)


def train_ict(cfg: DictConfig, run: Path, corpus: Corpus, weights: Weights) -> None:
    """The retriever alone, on the inverse cloze task."""
    task = IctTask(build_towers(cfg, corpus, weights), optimization(cfg.ict))
    pairs = {**sampling(cfg, "ict"), "passage_length": cfg.passage_length, "keep_rate": cfg.ict.keep_rate}
    heldout = ClozePairs(corpus, **pairs, seed=0, heldout=True)
    trainer = make_trainer(cfg, run, "ict")
    across = None
    if cfg.ict.across_rate:
        oracle, masking = Oracle(corpus), instantiate(cfg.masking)
        across = MaskedSentences(corpus, masking, **sampling(cfg, "ict"), seed=cfg.seed, oracle=oracle)
    examples = ClozePairs(corpus, **pairs, seed=cfg.seed, across=across, across_rate=cfg.ict.across_rate)
    fit(trainer, task, examples, cfg, run, "ict")
    size = cfg.ict.micro_batch_size
    count = min(cfg.ict.heldout, len(heldout.order.items)) // size * size
    if count:
        batches = DataLoader(heldout.micro_batches(range(count), size), batch_size=None, collate_fn=as_it_is)
        trainer.validate(task, batches, verbose=False)


def train_mlm(cfg: DictConfig, run: Path, corpus: Corpus, weights: Weights) -> None:
    """The reader alone, without retrieval."""
    oracle = Oracle(corpus) if cfg.mlm.oracle else None
    sentences = MaskedSentences(corpus, instantiate(cfg.masking), **sampling(cfg, "mlm"), seed=cfg.seed, oracle=oracle)
    task = MaskedLmTask(
        build_reader(cfg, corpus, weights),
        optimization(cfg.mlm),
        sep_id=corpus.sep_id,
        max_joint_length=cfg.query_length + cfg.passage_length,
    )
    examples = ReadingSentences(sentences, body_length=cfg.passage_length)
    fit(make_trainer(cfg, run, "mlm"), task, examples, cfg, run, "mlm")


def sampling(cfg: DictConfig, stage: str) -> dict[str, Any]:
    """Which sentences a stage takes, and how much of them."""
    return {
        "query_length": cfg.query_length,
        "min_length": cfg[stage].min_length,
        "heldout_percent": cfg.heldout_percent,
    }


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
    masking, sentences = instantiate(cfg.masking), sampling(cfg, "pretrain")
    heldout = HeldOut(
        run,
        corpus,
        heldout_batches(
            MaskedSentences(corpus, masking, **sentences, seed=settings.heldout_seed, heldout=True), settings.heldout
        ),
        every=settings.evaluate_every,
    )
    trainer = make_trainer(cfg, run, "pretrain")
    plan = instantiate(cfg.refresh)
    refresh = MODES[plan.mode](
        run,
        corpus,
        plan,
        instantiate(cfg.index),
        passage_length=cfg.passage_length,
        precision=trainer.precision,
        index_device=str(trainer.strategy.root_device),
        heldout=heldout,
    )
    # before the live table, which shows what they measure
    trainer.callbacks[:0] = [refresh, heldout, ColdStart(heldout, times_chance=settings.cold_start)]
    task = PretrainTask(realm, retrieval, optimization(settings), per=settings.per)
    examples = MaskedSentences(corpus, masking, **sentences, seed=cfg.seed)
    fit(trainer, task, examples, cfg, run, "pretrain")


def expect_one_of(key: str, got: str, options: Sequence[str]) -> None:
    """Raises BadInput for a word that is no option."""
    if got not in options:
        raise BadInput(f"{key}: got {got!r}, expected {' or '.join(map(repr, options))}")


STAGES = {"ict": train_ict, "mlm": train_mlm, "pretrain": train_realm}


def fit(trainer: pl.Trainer, task: pl.LightningModule, examples: Any, cfg: DictConfig, run: Path, stage: str) -> None:
    """Trains from the stage's last checkpoint if it has one, and saves the final weights."""
    checkpoint = last_checkpoint(run, stage, required=False)
    start = 0
    if checkpoint is not None:
        start = read_checkpoint(checkpoint)["global_step"]
        for logger in trainer.loggers:
            if isinstance(logger, JsonlLogger):
                logger.continue_from(start)
        print(f"{stage}: going on from {checkpoint} at step {start}")
    loader = StepLoader(
        examples,
        batch_size=cfg[stage].batch_size,
        micro_batch_size=cfg[stage].micro_batch_size,
        start=start,
        workers=cfg.workers,
        rank=trainer.global_rank,
        world=trainer.world_size,
    )
    task.train()  # Hugging Face hands its models over in evaluation mode
    trainer.fit(task, loader, ckpt_path=checkpoint, weights_only=False)
    if trainer.global_step % cfg.checkpoints.every:
        trainer.save_checkpoint(run / "checkpoints" / stage / f"step-{trainer.global_step:06d}.ckpt")


def as_it_is(batch: Any) -> Any:
    """Our batches are collated already."""
    return batch


def make_trainer(cfg: DictConfig, run: Path, stage: str) -> pl.Trainer:
    """Lightning's Trainer with our loggers and callbacks."""
    settings = dict(resolved(cfg)["trainer"])
    settings["precision"] = chosen_precision(cfg)
    loggers = [JsonlLogger(run, stage=stage)] + ([wandb_logger(cfg, run)] if cfg.wandb is not None else [])
    checkpoints = ModelCheckpoint(
        dirpath=run / "checkpoints" / stage,
        filename="step-{step:06d}",
        auto_insert_metric_name=False,
        every_n_train_steps=cfg.checkpoints.every,
        save_top_k=cfg.checkpoints.keep,
        monitor="step",
        mode="max",
        enable_version_counter=False,  # a step has one name, and the highest is the last
    )
    clock = StageClock(run, stage=stage)
    try:
        trainer = pl.Trainer(
            **settings,
            max_steps=cfg[stage].steps,
            max_epochs=-1,
            logger=loggers,
            callbacks=[Throughput(), Live(stage, every=cfg.log_every), clock, Randomness(), checkpoints],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            benchmark=False,
        )
    except (MisconfigurationException, ValueError) as error:
        raise BadInput(f"trainer: {error}; mend trainer.accelerator, trainer.devices or trainer.precision") from error
    micro_batch = cfg[stage].micro_batch_size * trainer.world_size
    trainer.accumulate_grad_batches = max(1, cfg[stage].batch_size // micro_batch)
    return trainer


def wandb_logger(cfg: DictConfig, run: Path) -> pl.loggers.Logger:
    """A wandb logger whose run goes on when this run is resumed."""
    from pytorch_lightning.loggers import WandbLogger

    remembered = run / "wandb.id"
    known = remembered.read_text().strip() if remembered.exists() else None
    logger = WandbLogger(name=cfg.name, save_dir=run, id=known, resume="allow", config=resolved(cfg), **cfg.wandb)
    remembered.write_text(str(logger.experiment.id))
    return logger


def finish_wandb() -> None:
    """Ends the wandb run, so that the next job of a sweep in this process gets its own."""
    import wandb

    wandb.finish()


def optimization(settings: DictConfig) -> Optimization:
    """The optimizer's settings of a stage."""
    return Optimization(
        steps=settings.steps,
        lr=settings.lr,
        **{name: settings[name] for name in ("lr_retriever", "lr_null") if name in settings},
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
    )


def heldout_batches(sentences: MaskedSentences, count: int, size: int = 16) -> list:
    """The first `count` held-out sentences, at most one a passage."""
    count = min(count, len(sentences.order.items))
    return sentences.micro_batches(range(count), size)


if __name__ == "__main__":
    main()
