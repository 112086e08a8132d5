"""`python -m realm_train.refresh run=…`: encodes the newest snapshot of a run's passage tower until training ends."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from realm_train.callbacks.refresh import refresher
from realm_train.command import command
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.index.store import IndexStore
from realm_train.index.worker import done_when, follow
from realm_train.ports import EncodePassages
from realm_train.tasks.encode import passage_encoder
from realm_train.train import build_towers, chosen_precision


@command("refresh")
def main(cfg: DictConfig) -> None:
    """Follows one run; everything about model and corpus is read from the run's own config.yaml."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    path = Path(cfg.run) / "config.yaml"
    if not path.exists():
        raise BadInput(f"{path}: not found; run= must be the folder of a run of realm_train.train")
    run = OmegaConf.load(path)
    plan, corpus = instantiate(run.refresh), Corpus(run.corpus)
    torch.set_num_threads(plan.threads)
    tower = build_towers(run, corpus).passage.to(plan.device)

    def make_encode(tensors: dict[str, Tensor]) -> EncodePassages:
        tower.load_state_dict(tensors)
        return passage_encoder(tower, corpus, max_length=run.passage_length, precision=chosen_precision(run))

    follow(
        Path(cfg.run) / "snapshots",
        refresher(IndexStore(Path(cfg.run) / "index"), corpus, tower.dim, plan),
        make_encode,
        poll_seconds=cfg.poll_seconds,
        done=done_when(Path(cfg.run) / "snapshots" / "DONE", parent=cfg.parent),
        heartbeat=Path(cfg.run) / "snapshots" / "heartbeat.json",
    )


if __name__ == "__main__":
    main()
