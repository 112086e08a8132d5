"""`python -m realm_train.train experiment=…`: ICT warm start, REALM pretraining, or both, in one run folder."""

from __future__ import annotations

import logging
import pickle
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from realm_train.callbacks import provenance
from realm_train.callbacks.cold_start import ColdStart
from realm_train.callbacks.heldout import HeldOut
from realm_train.callbacks.live import Live
from realm_train.callbacks.metrics import JsonlLogger
from realm_train.callbacks.randomness import Randomness
from realm_train.callbacks.refresh import MODES
from realm_train.callbacks.throughput import Throughput
from realm_train.command import command, resolved
from realm_train.data.corpus import Corpus
from realm_train.data.ict import ClozePairs
from realm_train.data.masked import MaskedSentences, ReadingSentences
from realm_train.data.oracle import Oracle
from realm_train.data.sampling import StepLoader
from realm_train.errors import BadInput
from realm_train.models.reader import Reader
from realm_train.models.realm import Realm
from realm_train.models.towers import Towers
from realm_train.tasks.ict import IctTask
from realm_train.tasks.masked_lm import MaskedLmTask
from realm_train.tasks.optimizer import Optimization
from realm_train.tasks.pretrain import PretrainTask
from realm_train.tasks.retrieval import Retrieval

Trained = TypeVar("Trained", bound=torch.nn.Module)


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


def check_lengths(corpus: Corpus, passage_length: int) -> None:
    """Raises BadInput if a model that reads `passage_length` word pieces would miss the ends of passages."""
    if corpus.manifest["max_length"] > passage_length:
        raise BadInput(
            f"passage_length: got {passage_length}, but the passages of {corpus.folder} have up to"
            f" {corpus.manifest['max_length']} word pieces, whose ends would never be read; raise passage_length, or"
            f" prepare the corpus with max_length={passage_length}"
        )


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


def trained_on(run: Path) -> str | None:
    """The hash of the corpus that a run was trained on, as far as it is known."""
    return provenance.read(run).get("data", {}).get("corpus")


Weights = dict[str, dict[str, torch.Tensor]]
"""State dicts of `towers` and `reader`, as far as earlier stages have trained them."""


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
    clock = provenance.StageClock(run, stage=stage)
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
        **{name: settings[name] for name in ("lr_retriever", "lr_null") if name in settings},
        weight_decay=settings.weight_decay,
        warmup=settings.warmup,
    )


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


def weights_of(checkpoint: Path, *names: str) -> Weights:
    """The state dicts of the named parts in a checkpoint of any stage."""
    state = read_checkpoint(checkpoint)["state_dict"]
    parts: Weights = {}
    for key, value in state.items():
        part, _, name = key.removeprefix("realm.").partition(".")
        if part in names:
            parts.setdefault(part, {})[name] = value
    return parts


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What Lightning has saved, its tensors mapped and not read yet; raises BadInput for a file that is not whole."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(
            f"{path}: is no whole checkpoint ({reason}); move it away to go on from the one before"
        ) from error


def heldout_batches(sentences: MaskedSentences, count: int, size: int = 16) -> list:
    """The first `count` held-out sentences, at most one a passage."""
    count = min(count, len(sentences.order.items))
    return sentences.micro_batches(range(count), size)


def last_checkpoint(run: Path, stage: str | None = None, *, required: bool = True) -> Path | None:
    """The newest checkpoint of a stage, or of the last stage that has one; raises BadInput if it is required."""
    for name in [stage] if stage else reversed(STAGES):
        saved = (run / "checkpoints" / name).glob("step-*.ckpt")
        if newest := max(saved, key=lambda path: int(path.stem.removeprefix("step-")), default=None):
            return newest
    if required:
        raise BadInput(f"{run / 'checkpoints'}: no checkpoint of {stage or 'any stage'}; train it first")
    return None


def finished(run: Path, stage: str) -> bool:
    """Whether a stage of this run was trained to its end."""
    return (run / "checkpoints" / stage / "DONE").exists()


if __name__ == "__main__":
    main()
