"""One stage of a run, trained: Lightning's Trainer with our callbacks and loggers, from the last checkpoint on."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from realm_train.build import chosen_precision
from realm_train.callbacks.live import Live
from realm_train.callbacks.metrics import JsonlLogger
from realm_train.callbacks.randomness import Randomness
from realm_train.callbacks.stage_clock import StageClock
from realm_train.callbacks.throughput import Throughput
from realm_train.checkpoints import last_checkpoint, read_checkpoint
from realm_train.command import resolved
from realm_train.data.sampling import StepLoader
from realm_train.errors import BadInput
from realm_train.tasks.optimizer import Optimization


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
