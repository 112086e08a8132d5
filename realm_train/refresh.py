"""`python -m realm_train.refresh run=…`: encodes the newest snapshot of a run's passage tower until training ends."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from realm_train.build import build_towers, chosen_precision
from realm_train.callbacks.adoption import refresher
from realm_train.command import command
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.index.store import IndexStore
from realm_train.index.worker import alone, done_when, follow
from realm_train.once import refresh_once, summary
from realm_train.ports import EncodePassages
from realm_train.tasks.encode import passage_encoder


@command("refresh")
def main(cfg: DictConfig) -> None:
    """Follows one run, or with `once` encodes one corpus with its newest weights; everything about model and corpus is
    read from the run's own config.yaml."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if cfg.once:
        print(summary(*refresh_once(run=cfg.run, corpus=cfg.corpus, device=cfg.device, threads=cfg.threads)))
    elif cfg.corpus is not None:
        raise BadInput("corpus: a run in training has its own; with once=true, another one can be encoded")
    else:
        follow_run(cfg)


def follow_run(cfg: DictConfig) -> None:
    """Keeps the index of a run in training fresh; of several ranks (torchrun, srun) each encodes its share."""
    rank, world, local = rank_of(os.environ)
    done = done_when(
        Path(cfg.run) / "snapshots" / "DONE",
        parent=cfg.parent,
        trainer=Path(cfg.run) / "snapshots" / "trainer.json",
        patience_seconds=cfg.patience_seconds,
    )
    run = wait_for_config(Path(cfg.run), done, seconds=cfg.poll_seconds if cfg.parent is None else None)
    if run is None:
        return
    plan, corpus = instantiate(run.refresh), Corpus(run.corpus)
    torch.set_num_threads(cfg.threads or plan.threads)
    device = cfg.device or plan.device
    tower = build_towers(run, corpus).passage.to(f"cuda:{local}" if device == "cuda" else device)

    def make_encode(tensors: Mapping[str, Tensor]) -> EncodePassages:
        tower.load_state_dict(tensors)
        return passage_encoder(tower, corpus, max_length=run.passage_length, precision=chosen_precision(run))

    snapshots = Path(cfg.run) / "snapshots"
    with alone(snapshots / "worker.lock") if rank == 0 else nullcontext():
        follow(
            snapshots,
            refresher(IndexStore(Path(cfg.run) / "index"), corpus, tower.dim, plan, instantiate(run.index)),
            make_encode,
            poll_seconds=cfg.poll_seconds,
            done=done,
            heartbeat=snapshots / ("heartbeat.json" if rank == 0 else f"heartbeat-{rank}.json"),
            rank=rank,
            world=world,
        )


def rank_of(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, world, local rank) as torchrun or srun tell it; (0, 1, 0) for a process on its own."""
    for rank, world, local in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")):
        if rank in environment and world in environment:
            return int(environment[rank]), int(environment[world]), int(environment.get(local, 0))
    return 0, 1, 0


def wait_for_config(run: Path, done: Callable[[], bool], *, seconds: float | None) -> DictConfig | None:
    """The run's configuration; a job that starts before its trainer looks for it every `seconds`, None refuses at once
    what is no run. Returns None if training ended first."""
    path = run / "config.yaml"
    if not path.exists() and seconds is None:
        raise BadInput(f"{path}: not found; run= must be the folder of a run of realm_train.train")
    if not path.exists():
        print(f"{path}: not there yet; waiting for training to start", flush=True)
    while not path.exists():
        if done():
            return None
        time.sleep(seconds)
    return OmegaConf.load(path)


if __name__ == "__main__":
    main()
