"""`python -m realm_train.train experiment=…`: ICT warm start, REALM pretraining, fine-tuning, in one run folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from realm_train.build import check_lengths
from realm_train.callbacks import provenance
from realm_train.checkpoints import PARTS, Weights, finished, last_checkpoint, trained_on, weights_of, weights_up_to
from realm_train.command import command, resolved
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.fitting import finish_wandb, quiet
from realm_train.once import run_config
from realm_train.stages import STAGES


@command("train")
def main(cfg: DictConfig) -> None:
    """Runs the stages that are not finished yet; see conf/train.yaml."""
    quiet()
    if "open_qa" in cfg.stages:
        cfg = inherited(cfg)
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
    weights = starting_weights(cfg)
    for stage in cfg.stages:
        if not finished(run, stage):
            pl.seed_everything(cfg.seed, workers=True, verbose=False)
            STAGES[stage](cfg, run, corpus, weights)
            (run / "checkpoints" / stage / "DONE").touch()
        weights |= weights_of(last_checkpoint(run, stage), *PARTS)
    if cfg.wandb is not None:
        finish_wandb()
    print(f"{run}: done; python -m realm_train.report {run} draws the report")


def starting_weights(cfg: DictConfig) -> Weights:
    """Those of the run that is fine-tuned, or the towers of the run that was the warm start."""
    if cfg.ckpt is not None:
        return weights_up_to(Path(cfg.ckpt), cfg.ckpt_stage)[2]
    return {} if cfg.retriever is None else weights_of(last_checkpoint(Path(cfg.retriever)), "towers")


def inherited(cfg: DictConfig) -> DictConfig:
    """The configuration with what fine-tuning takes from the run that it starts from: its model, with an own query
    tower, its lengths, and its corpus unless another one is given."""
    check_fine_tuning(cfg)
    older = run_config(Path(cfg.ckpt))
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.model = OmegaConf.merge(older.model, cfg.model)
        cfg.model.towers.shared = False
        for key in ("corpus", "passage_length", "query_length"):
            cfg[key] = older[key] if cfg[key] is None else cfg[key]
    return cfg


def check_fine_tuning(cfg: DictConfig) -> None:
    """Raises BadInput for a fine-tuning that lacks something, or cannot be."""
    if list(cfg.stages) != ["open_qa"]:
        raise BadInput(f"stages: got {list(cfg.stages)}, expected open_qa in a run of its own, with ckpt=runs/…")
    if cfg.ckpt is None:
        raise BadInput("ckpt: got nothing, expected the run to fine-tune: ckpt=runs/…")
    if cfg.questions is None:
        raise BadInput(
            "questions: got nothing, expected what to learn from: questions=data/questions/trivia, or a file"
        )
    expect_one_of("open_qa.null_score", cfg.open_qa.null_score, ("tower", "learned"))
    if cfg.open_qa.refresh and (cfg.refresh.write_back or cfg.refresh.mode == "rolling"):
        raise BadInput(
            f"refresh: got mode={cfg.refresh.mode} write_back={cfg.refresh.write_back}, expected inline, process or job"
            " without write_back: fine-tuning does not write into the index"
        )
    instantiate(cfg.refresh)
    instantiate(cfg.index)


def check_pretraining(cfg: DictConfig) -> None:
    """Raises BadInput for settings of the last stage that cannot be."""
    expect_one_of("pretrain.per", cfg.pretrain.per, ("token", "span"))
    expect_one_of("pretrain.null_score", cfg.pretrain.null_score, ("tower", "learned"))
    instantiate(cfg.refresh)
    instantiate(cfg.index)


def expect_one_of(key: str, got: str, options: Sequence[str]) -> None:
    """Raises BadInput for a word that is no option."""
    if got not in options:
        raise BadInput(f"{key}: got {got!r}, expected {' or '.join(map(repr, options))}")


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


if __name__ == "__main__":
    main()
