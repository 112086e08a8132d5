"""Adoption: keeps the task's index fresh, by this process or beside it, and swaps at step boundaries.

train      snapshot of the passage tower  ->  runs/<name>/snapshots/s000100/
refresh    embeddings                     ->  runs/<name>/index/v000001/        (another process, or inline)
train      adopts v000001 between two steps, and goes on
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from realm_train.callbacks.display import log
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.index.exact import ExactIndex
from realm_train.index.refresher import Refresher
from realm_train.index.snapshot import discard_snapshots_after, tower_hash, write_snapshot
from realm_train.index.store import IndexStore
from realm_train.ports import Index
from realm_train.tasks.encode import passage_encoder

OnAdopt = Callable[[Trainer, LightningModule, Index | None, Index], Mapping[str, float]]
"""(trainer, task, old index, new index) -> metrics to log with the adoption."""


@dataclass(frozen=True)
class RefreshPlan:
    """How the index is kept: the corpus is encoded anew every `every` steps, `inline` or in a `process` of its own.

    `device` and `threads` are the worker's. A worker on the CPU takes its threads from a trainer on the CPU while it
    encodes: with more threads than cores both would wait for each other at every product.
    """

    mode: Literal["inline", "process"] = "process"
    every: int = 500
    keep: int = 3
    dtype: str = "float32"
    shard_size: int = 4096
    device: str = "cpu"
    threads: int = 1
    final: bool = True

    def __post_init__(self) -> None:
        if self.mode not in ("inline", "process"):
            raise BadInput(f"refresh.mode: got {self.mode!r}, expected 'inline' or 'process'")
        if self.every < 1:
            raise BadInput(f"refresh.every: got {self.every}, expected at least 1 step")


class Refresh(Callback):
    """Builds the first index, asks for the next ones, adopts them, and writes their version and age into the metrics.

    A checkpoint remembers the version it trained with; a resumed run loads it again, and versions that were encoded
    from later weights are put aside, as is all that an earlier start without a checkpoint left behind. With `final`,
    training ends with an index of the final weights.
    """

    def __init__(
        self,
        run: Path,
        corpus: Corpus,
        plan: RefreshPlan,
        *,
        passage_length: int,
        precision: str,
        index_device: str = "cpu",
        on_adopt: OnAdopt | None = None,
    ) -> None:
        self.run, self.corpus, self.plan = run, corpus, plan
        self.passage_length, self.precision, self.index_device = passage_length, precision, index_device
        self.on_adopt = on_adopt
        self.store = IndexStore(run / "index")
        self.version: int | None = None
        self.tower: str | None = None  # hash of the weights that made this version
        self.trained_step = 0
        self._boundary = self._asked = 0  # the last step seen, and the step of the last snapshot
        self._worker: Worker | None = None
        self._threads: int | None = None  # what the trainer had before it lent some to the worker

    def state_dict(self) -> dict[str, int | str | None]:
        return {"version": self.version, "tower": self.tower}

    def load_state_dict(self, state_dict: dict[str, int | str | None]) -> None:
        self.version, self.tower = state_dict["version"], state_dict["tower"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._boundary = trainer.global_step
        step = -1 if self.version is None else trainer.global_step
        for folder in self.store.discard_after(step) + discard_snapshots_after(self.run / "snapshots", step):
            print(f"index: {folder.name} is of later weights than these; put aside")
        if self.version is None:
            self._encode(trainer, pl_module)
        else:
            self._load(pl_module, self.version, tower=self.tower)
        if self.plan.mode == "process" and trainer.is_global_zero:
            self._worker = Worker(self.run, self.plan)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self._boundary:
            return  # gradients still accumulate
        self._boundary = step = trainer.global_step
        if step % self.plan.every == 0 and step < trainer.max_steps:
            if self.plan.mode == "inline":
                self._encode(trainer, pl_module)
            else:
                self._snapshot(pl_module, step)
        if self._worker is not None:
            if not self._worker.alive():
                self._take_threads_back()
            latest = self.store.latest()
            if latest is not None and latest != self.version:
                self._adopt(trainer, pl_module, latest)
        age = {"index/version": float(self.version), "index/age_steps": float(step - self.trained_step)}
        pl_module.log_dict(age)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop_worker()
        if self.plan.final and self.trained_step != trainer.global_step:
            self._encode(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop_worker()

    def _lend_threads(self, task: LightningModule) -> None:
        if self._threads is None and task.device.type == "cpu" and self.plan.device == "cpu":
            self._threads = torch.get_num_threads()
            torch.set_num_threads(max(1, self._threads - self.plan.threads))

    def _take_threads_back(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
            self._threads = None

    def _stop_worker(self) -> None:
        self._take_threads_back()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _snapshot(self, task: LightningModule, step: int) -> None:
        tensors = {name: tensor.detach().cpu() for name, tensor in passage_tensors(task).items()}
        write_snapshot(self.run / "snapshots", step=step, tensors=tensors)
        self._asked = step
        self._lend_threads(task)

    def _encode(self, trainer: Trainer, task: LightningModule) -> None:
        """Encodes the corpus here and now with the live weights, publishes, adopts."""
        tower = task.realm.towers.passage
        encode = passage_encoder(tower, self.corpus, max_length=self.passage_length, precision=self.precision)
        manifest = refresher(self.store, self.corpus, tower.dim, self.plan).refresh(
            encode, step=trainer.global_step, tower=tower_hash(passage_tensors(task))
        )
        self._adopt(trainer, task, manifest["version"])

    def _adopt(self, trainer: Trainer, task: LightningModule, version: int) -> None:
        started = time.perf_counter()
        old, manifest = task.retrieval.index, self._load(task, version)
        if self.trained_step >= self._asked:  # else the worker goes on with a newer snapshot at once
            self._take_threads_back()
        metrics = {"index/refresh_seconds": manifest["seconds"], "index/swap_seconds": time.perf_counter() - started}
        metrics |= {"index/version": version, "index/age_steps": trainer.global_step - self.trained_step}
        metrics |= self.on_adopt(trainer, task, old, task.retrieval.index) if self.on_adopt else {}
        log(trainer, metrics)

    def _load(self, task: LightningModule, version: int, tower: str | None = None) -> dict:
        manifest, embeddings = self.store.load(version, corpus=self.corpus.hash, tower=tower)
        task.retrieval.adopt(ExactIndex(embeddings, device=self.index_device))
        self.version, self.tower, self.trained_step = version, manifest["tower"], manifest["trained_step"]
        return manifest


class Worker:
    """The refresh process of a run: `python -m realm_train.refresh run=…`, which ends with this process."""

    def __init__(self, run: Path, plan: RefreshPlan) -> None:
        self.run = run
        self.done = run / "snapshots" / "DONE"
        self.done.unlink(missing_ok=True)
        self.log_path = run / "refresh.log"
        self._log: IO[str] = self.log_path.open("a", encoding="utf-8")
        threads = {"OMP_NUM_THREADS": str(plan.threads), "MKL_NUM_THREADS": str(plan.threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "realm_train.refresh", f"run={run}", f"parent={os.getpid()}"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
        )
        self._reported = False

    def alive(self) -> bool:
        """Whether it runs; says once, with the log's last lines, that it has died: training goes on with its index."""
        if self.process.poll() is None:
            return True
        if self._reported:
            return False
        self._reported = True
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        print(
            f"index: the refresh process ended with code {self.process.returncode}; training goes on with the old"
            f" index. Its last lines ({self.log_path}):\n  " + "\n  ".join(lines),
            flush=True,
        )
        return False

    def stop(self) -> None:
        """Lets the worker end by itself, and ends it when it does not."""
        self.done.parent.mkdir(parents=True, exist_ok=True)
        self.done.touch()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()
        self._log.close()


def passage_tensors(task: LightningModule) -> dict[str, torch.Tensor]:
    """The weights that a refresh needs."""
    return dict(task.realm.towers.passage.state_dict())


def refresher(store: IndexStore, corpus: Corpus, dim: int, plan: RefreshPlan) -> Refresher:
    """The refresher that the trainer uses inline and the worker in its own process."""
    return Refresher(
        store,
        corpus_hash=corpus.hash,
        count=corpus.count,
        dim=dim,
        dtype=plan.dtype,
        shard_size=plan.shard_size,
        keep=plan.keep,
    )
