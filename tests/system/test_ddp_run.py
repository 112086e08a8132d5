"""A whole training on two ranks, started as torchrun would: gradients, metrics, checkpoints and index of one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch
from test_resume import ROOT
from tiny_run import events, series

from realm_train.index.store import IndexStore

pytestmark = pytest.mark.slow
WORDS = ["trainer.devices=2", "+trainer.strategy=ddp", "stages=[pretrain]", "pretrain.steps=10", "refresh.every=4"]
WORDS += ["pretrain.batch_size=8", "model.dropout=0.0", "refresh.final=false", "checkpoints.every=5", "refresh.keep=9"]
WATCHED = """
import os, pathlib, time
from realm_train.callbacks.adoption import Adoption
from realm_train.index.store import IndexStore
from realm_train.train import main

rank = os.environ["RANK"]
out = open(os.environ["TOLD"] + rank, "a", buffering=1)
end, exists, versions = Adoption.on_train_batch_end, pathlib.Path.exists, IndexStore.versions

def told(self, trainer, task, *args):
    end(self, trainer, task, *args)
    print(trainer.global_step, self.version, float(task.retrieval.index.vectors.double().sum()), file=out)

def visible(path):
    try:
        return path.name != "manifest.json" or "/index/v" not in str(path) or time.time() - path.stat().st_mtime > 2
    except FileNotFoundError:
        return False

Adoption.on_train_batch_end = told
if rank == "1":
    pathlib.Path.exists = lambda path, **settings: visible(path) and exists(path, **settings)
    IndexStore.versions = lambda store: [v for v in versions(store) if visible(store.folder(v) / "manifest.json")]
main()
"""


@pytest.mark.parametrize("mode", [["refresh=process", "refresh.adopt_lag=3"], ["refresh=inline"], ["refresh=rolling"]])
def test_both_ranks_have_the_same_index_at_every_step(overrides, tmp_path, mode):
    (tmp_path / "watched.py").write_text(WATCHED)
    run, told = tmp_path / "run", tmp_path / "told"
    port = free_port()
    ranks = [start_rank(rank, run, [*overrides, *WORDS, *mode], told, port) for rank in range(2)]
    said = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    ours, theirs = ((tmp_path / f"told{rank}").read_text() for rank in range(2))
    assert ours == theirs and len(ours.splitlines()) >= 10
    assert len(series(run, "pretrain", "loss")) == 10  # one line a step, of both ranks together
    assert {path.name for path in (run / "checkpoints" / "pretrain").iterdir()} == {
        "DONE",
        "step-000005.ckpt",
        "step-000010.ckpt",
    }
    store = IndexStore(run / "index")
    if mode != ["refresh=rolling"]:
        assert [store.manifest(version)["trained_step"] for version in store.versions()] == [0, 4, 8]
    assert all(torch.isfinite(torch.tensor(event["loss"])) for event in events(run, "pretrain") if "loss" in event)


def start_rank(rank: int, run, words: list[str], told, port: int) -> subprocess.Popen:
    torchrun = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    torchrun |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    environment = {**os.environ, **{name: str(value) for name, value in torchrun.items()}, "OMP_NUM_THREADS": "1"}
    environment |= {"TOLD": str(told), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, told.parent / "watched.py", f"run={run}", *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
