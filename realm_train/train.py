"""`python -m realm_train.train experiment=…`: ICT warm start, REALM pretraining, or both, in one run folder."""

from __future__ import annotations

import logging
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from realm_train.callbacks import provenance
from realm_train.callbacks.cold_start import ColdStart
from realm_train.callbacks.heldout import HeldOut
from realm_train.callbacks.live import Live
from realm_train.callbacks.metrics import JsonlLogger
from realm_train.callbacks.randomness import Randomness
from realm_train.callbacks.refresh import Refresh
from realm_train.callbacks.throughput import Throughput
from realm_train.command import command, resolved
from realm_train.data.corpus import Corpus
from realm_train.data.ict import ClozePairs
from realm_train.data.masked import MaskedSentences
from realm_train.data.sampling import StepLoader
from realm_train.errors import BadInput
from realm_train.models.realm import Realm
from realm_train.models.towers import Towers
from realm_train.tasks.ict import IctTask
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.pretrain import PretrainTask
from realm_train.tasks.retrieval import Retrieval


@command("train")
def main(cfg: DictConfig) -> None:
    """Runs the stages that are not finished yet; see conf/train.yaml."""
    quiet()
    run, corpus = Path(cfg.run), Corpus(cfg.corpus)
    open_run(run, cfg)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    prepare = {"passages": corpus.manifest.get("seconds", 0.0)}
    if "pretrain" in cfg.stages and instantiate(cfg.masking).needs_spans:
        prepare["spans"] = corpus.span_manifest.get("seconds", 0.0)
    data = {"corpus": corpus.hash, "passages": corpus.count, "counts": corpus.manifest["counts"]}
    provenance.start(run, command=shlex.join(["python", *sys.orig_argv[1:]]), data=data, prepare=prepare)
    towers_from = None if cfg.retriever is None else last_checkpoint(Path(cfg.retriever))
    for stage in cfg.stages:
        if not finished(run, stage):
            STAGES[stage](cfg, run, corpus, towers_from)
        towers_from = last_checkpoint(run, stage)
    print(f"{run}: done; python -m realm_train.report {run} draws the report")


def quiet() -> None:
    """Hides what Lightning says to everybody; what it says about this run stays."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (".*you have no `val_dataloader`.*", ".*treespec.*", ".*does not have many workers.*"):
        warnings.filterwarnings("ignore", message=message)


def open_run(run: Path, cfg: DictConfig) -> None:
    """Makes the run folder and its config.yaml; refuses to write into another run's."""
    unknown = set(cfg.stages) - set(STAGES)
    if unknown:
        raise BadInput(f"stages: got {sorted(unknown)}, expected some of {list(STAGES)}")
    if cfg.ckpt_path not in (None, "last"):
        raise BadInput(f"ckpt_path: got {cfg.ckpt_path!r}, expected last (go on with run={run}) or nothing")
    if cfg.ckpt_path is None and (run / "metrics.jsonl").exists():
        raise BadInput(f"{run}: holds a run already; give ckpt_path=last to go on with it, or another name=")
    run.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.create(resolved(cfg)), run / "config.yaml")


def train_ict(cfg: DictConfig, run: Path, corpus: Corpus, towers_from: Path | None) -> None:
    """The retriever alone, on the inverse cloze task."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    task = IctTask(build_towers(cfg, corpus, towers_from), optimization(cfg.ict))
    sampling = {
        "query_length": cfg.query_length,
        "passage_length": cfg.passage_length,
        "keep_rate": cfg.ict.keep_rate,
        "min_length": cfg.ict.min_length,
        "heldout_percent": cfg.heldout_percent,
    }
    pairs = ClozePairs(corpus, **sampling, seed=cfg.seed)
    heldout = ClozePairs(corpus, **sampling, seed=0, heldout=True)
    trainer = make_trainer(cfg, run, "ict")
    fit(trainer, task, pairs, cfg, run, "ict")
    size = cfg.ict.micro_batch_size
    count = min(cfg.ict.heldout, len(heldout.order.items)) // size * size
    if count:
        batches = DataLoader(heldout.micro_batches(range(count), size), batch_size=None, collate_fn=as_it_is)
        trainer.validate(task, batches, verbose=False)
    finish(run, "ict")


def train_realm(cfg: DictConfig, run: Path, corpus: Corpus, towers_from: Path | None) -> None:
    """Retriever and reader together."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    settings = cfg.pretrain
    realm = Realm(
        build_towers(cfg, corpus, towers_from),
        build(cfg.model.reader),
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
    sampling = {
        "query_length": cfg.query_length,
        "min_length": settings.min_length,
        "heldout_percent": cfg.heldout_percent,
    }
    masking = instantiate(cfg.masking)
    sentences = MaskedSentences(corpus, masking, **sampling, seed=cfg.seed)
    heldout = HeldOut(
        run,
        corpus,
        heldout_batches(MaskedSentences(corpus, masking, **sampling, seed=0, heldout=True), settings.heldout),
        every=settings.evaluate_every,
    )
    trainer = make_trainer(cfg, run, "pretrain")
    refresh = Refresh(
        run,
        corpus,
        instantiate(cfg.refresh),
        passage_length=cfg.passage_length,
        precision=trainer.precision,
        index_device=str(trainer.strategy.root_device),
        on_adopt=heldout.on_adopt,
    )
    # before the live table, which shows what they measure
    trainer.callbacks[:0] = [refresh, heldout, ColdStart(heldout, times_chance=settings.cold_start)]
    task = PretrainTask(realm, retrieval, optimization(settings), per=settings.per)
    fit(trainer, task, sentences, cfg, run, "pretrain")
    finish(run, "pretrain")


STAGES = {"ict": train_ict, "pretrain": train_realm}


def fit(trainer: pl.Trainer, task: pl.LightningModule, examples: Any, cfg: DictConfig, run: Path, stage: str) -> None:
    """Trains from the stage's last checkpoint if it has one."""
    checkpoint = last_checkpoint(run, stage, required=False)
    start = 0
    if checkpoint is not None:
        start = torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)["global_step"]
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
        save_last="link",
    )
    world = settings["devices"] if isinstance(settings["devices"], int) else len(settings["devices"])
    return pl.Trainer(
        **settings,
        max_steps=cfg[stage].steps,
        max_epochs=-1,
        accumulate_grad_batches=max(1, cfg[stage].batch_size // (cfg[stage].micro_batch_size * world)),
        logger=loggers,
        callbacks=[
            Throughput(),
            Live(stage, every=cfg.log_every),
            provenance.StageClock(run, stage=stage),
            Randomness(),
            checkpoints,
        ],
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        benchmark=False,
    )


def wandb_logger(cfg: DictConfig, run: Path) -> pl.loggers.Logger:
    """A wandb logger whose run goes on when this run is resumed."""
    from pytorch_lightning.loggers import WandbLogger

    remembered = run / "wandb.id"
    known = remembered.read_text().strip() if remembered.exists() else None
    logger = WandbLogger(name=cfg.name, save_dir=run, id=known, resume="allow", config=resolved(cfg), **cfg.wandb)
    remembered.write_text(str(logger.experiment.id))
    return logger


def chosen_precision(cfg: DictConfig) -> str:
    """The precision of the configuration; auto is bf16-mixed where GPU or CPU multiplies it natively, else 32-true."""
    if cfg.trainer.precision != "auto":
        return str(cfg.trainer.precision)
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    flags = Path("/proc/cpuinfo")
    native = flags.exists() and {"avx512_bf16", "amx_bf16"} & set(flags.read_text().split())
    return "bf16-mixed" if native else "32-true"


def optimization(settings: DictConfig) -> Optimization:
    """The optimizer's settings of a stage."""
    return Optimization(
        steps=settings.steps,
        lr=settings.lr,
        lr_retriever=settings.get("lr_retriever"),
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
    )


def build(config: DictConfig) -> Any:
    """The object of a `_target_` whose nested mappings reach it as plain dicts."""
    return instantiate(config, _convert_="all")


def build_towers(cfg: DictConfig, corpus: Corpus, checkpoint: Path | None = None) -> Towers:
    """The towers of the configuration, with a checkpoint's weights if one is given."""
    towers = build(cfg.model.towers)
    vocabulary = towers.passage.encoder.config.vocab_size
    if vocabulary < corpus.manifest["tokenizer"]["vocab_size"]:
        raise BadInput(
            f"model: has {vocabulary} word pieces, but the corpus {corpus.folder} was tokenised with"
            f" {corpus.manifest['tokenizer']['vocab_size']} ({corpus.manifest['tokenizer']['name']});"
            " prepare the corpus with the model's tokenizer"
        )
    if checkpoint is not None:
        state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
        weights = {name.split("towers.", 1)[1]: value for name, value in state.items() if "towers." in name}
        try:
            towers.load_state_dict(weights)
        except RuntimeError as error:
            raise BadInput(f"{checkpoint}: its towers do not fit conf/model ({error}); use the same model=") from error
    return towers


def heldout_batches(sentences: MaskedSentences, count: int, size: int = 16) -> list:
    """The first `count` held-out sentences, at most one a passage."""
    count = min(count, len(sentences.order.items))
    return sentences.micro_batches(range(count), size)


def last_checkpoint(run: Path, stage: str | None = None, *, required: bool = True) -> Path | None:
    """The newest checkpoint of a stage, or of the last stage that has one; raises BadInput if it is required."""
    for name in [stage] if stage else reversed(STAGES):
        path = run / "checkpoints" / name / "last.ckpt"
        if path.exists():
            return path.resolve()
    if required:
        raise BadInput(f"{run / 'checkpoints'}: no checkpoint of {stage or 'any stage'}; train it first")
    return None


def finished(run: Path, stage: str) -> bool:
    """Whether a stage of this run was trained to its end."""
    return (run / "checkpoints" / stage / "DONE").exists()


def finish(run: Path, stage: str) -> None:
    """Marks a stage as trained to its end."""
    (run / "checkpoints" / stage / "DONE").touch()


if __name__ == "__main__":
    main()
