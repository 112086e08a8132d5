"""The index at step boundaries, whoever encodes it: the first one, what a checkpoint remembers of it, its age.

train      snapshot of the passage tower  ->  runs/<name>/snapshots/s000100/
refresh    embeddings                     ->  runs/<name>/index/v000001/        (another process, or inline)
train      adopts v000001 between two steps, on all ranks at the same one, and goes on
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from realm_train.callbacks.agreement import Agreement
from realm_train.callbacks.display import log
from realm_train.callbacks.examining import Examining
from realm_train.callbacks.loading import UNDER_WAY, Background
from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.callbacks.written import Written
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.index.exact import ExactIndex
from realm_train.index.refresher import Refresher
from realm_train.index.snapshot import discard_snapshots_after, tower_hash
from realm_train.index.store import IndexStore
from realm_train.ports import Index, SearchStructure
from realm_train.tasks.encode import passage_encoder


class Adoption(Callback):
    """Builds the first index, adopts the next ones, and writes their version and age into the metrics.

    A checkpoint remembers the version it trained with and what was written into it; a resumed run loads it again, and
    versions that were encoded from later weights are put aside, as is all that an earlier start without a checkpoint
    left behind. With `plan.final`, training ends with an index of the final weights. Rows that an index in `reuse_from`
    has of the very same weights are not encoded again.
    """

    def __init__(
        self,
        run: Path,
        corpus: Corpus,
        plan: RefreshPlan,
        structure: SearchStructure,
        *,
        passage_length: int,
        precision: str,
        index_device: str = "cpu",
        heldout: Examining | None = None,
        reuse_from: Sequence[Path] = (),
    ) -> None:
        self.run, self.corpus, self.plan, self.structure = run, corpus, plan, structure
        self.passage_length, self.precision, self.index_device = passage_length, precision, index_device
        self.heldout, self.reuse_from = heldout, reuse_from
        self.store = IndexStore(run / "index")
        self.snapshots = run / "snapshots"
        self.version: int | None = None
        self.tower: str | None = None  # hash of the weights that made this version
        self.trained_step = 0
        self.ranks: Agreement
        self.written: Written | None = Written(corpus.count) if plan.write_back or plan.mode == "rolling" else None
        self._restored: dict[str, Any] = {}
        self._boundary = 0  # the last step seen
        self._examining: tuple[dict[str, float], Background] | None = None
        self._warned = False

    def state_dict(self) -> dict[str, Any]:
        return {"version": self.version, "tower": self.tower}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.version, self.tower = state_dict["version"], state_dict["tower"]
        self._restored = state_dict

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.written is not None:
            state = checkpoint["callbacks"][self.state_key]
            state["written"] = self.written.state(pl_module.retrieval.index)
        if trainer.is_global_zero:
            self._pin(trainer)

    def _pin(self, trainer: Trainer) -> None:
        """Keeps the versions of all checkpoints that are there, however many are published in between."""
        saved = {path.stem for path in Path(trainer.checkpoint_callback.dirpath).glob("step-*.ckpt")}
        now = f"step-{trainer.global_step:06d}"
        self.store.pin({now: self.version}, spare=saved | {now})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ranks = Agreement(self.snapshots / "decisions")
        self._boundary = trainer.global_step
        if self.ranks.rank == 0:
            self._put_aside(-1 if self.version is None else trainer.global_step)
        self.ranks.broadcast(0)  # nobody looks at the index before that
        if self.version is None:
            self._encode(trainer, pl_module)
        else:
            self._take(pl_module, self.version, self._open(self.version, tower=self.tower))
        if self.written is not None:
            self._start_writing(pl_module)
        self.start(trainer, pl_module)

    def _put_aside(self, step: int) -> None:
        for folder in self.store.discard_after(step) + discard_snapshots_after(self.snapshots, step):
            print(f"index: {folder.name} is of later weights than these; put aside")

    def _start_writing(self, task: LightningModule) -> None:
        index = task.retrieval.index
        if not isinstance(index, ExactIndex):  # which can also be read row by row, for what is carried over and saved
            raise BadInput(
                f"refresh: mode={self.plan.mode} write_back={self.plan.write_back} puts vectors into the index one by"
                f" one, which index={self.structure.kind} cannot do; take index=exact, or another refresh"
            )
        if "written" in self._restored:
            self.written.restore(index, self._restored["written"])
        task.keep_vectors = self.plan.write_back

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.global_step == self._boundary:
            return  # gradients still accumulate
        self._boundary = step = trainer.global_step
        if self.plan.write_back:
            ids, vectors = self.ranks.gathered(*pl_module.kept_vectors())
            self.written.write(pl_module.retrieval.index, ids, vectors, step=step - 1)  # the weights before this update
        self.boundary(trainer, pl_module, step)
        self._check_age(trainer, pl_module, step)
        self._report_examined(trainer, wait=False)
        pl_module.log_dict({"index/version": float(self.version), "index/age_steps": float(step - self.oldest_step())})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop(finished=True)
        if self.plan.final and self.trained_step != trainer.global_step:
            self._encode(trainer, pl_module)
        self._report_examined(trainer, wait=True)
        pl_module.keep_vectors = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.stop(finished=False)

    def start(self, trainer: Trainer, task: LightningModule) -> None:
        """What a mode does once the first index is there."""

    def boundary(self, trainer: Trainer, task: LightningModule, step: int) -> None:
        """What a mode does after every optimiser step."""

    def stop(self, *, finished: bool) -> None:
        """What a mode does when training ends, well or not."""

    def oldest_step(self) -> int:
        """The step of the oldest vector in use."""
        return self.trained_step

    def _encode(self, trainer: Trainer, task: LightningModule) -> None:
        """Encodes the corpus here and now with the live weights, on all ranks; publishes, adopts."""
        tower, step = task.towers.passage, trainer.global_step
        encode = passage_encoder(tower, self.corpus, max_length=self.passage_length, precision=self.precision)
        reuse_from = [IndexStore(folder) for folder in self.reuse_from]
        encoding = refresher(self.store, self.corpus, tower.dim, self.plan, self.structure, reuse_from=reuse_from)
        manifest = encoding.refresh(
            encode,
            step=step,
            tower=tower_hash(passage_tensors(task)),
            rank=self.ranks.rank,
            world=self.ranks.world,
            queries=self.questions(task),
        )
        version = self.ranks.decided(f"encoded-{step}", lambda: manifest["version"])
        self.adopt(trainer, task, version, self._open(version))
        self._report_examined(trainer, wait=True)

    def questions(self, task: LightningModule) -> np.ndarray | None:
        """Vectors of the held-out questions, for a search that wants to be calibrated."""
        if self.heldout is None or self.structure.kind == "exact":
            return None
        return torch.cat(self.heldout.questions(task)).float().cpu().numpy()

    def _open(self, version: int, *, tower: str | None = None) -> tuple[dict, Index]:
        return self.store.open(version, self.structure, corpus=self.corpus.hash, tower=tower, device=self.index_device)

    def adopt(self, trainer: Trainer, task: LightningModule, version: int, opened: tuple[dict, Index]) -> None:
        """Swaps the index between two steps; recall and overlap are looked at beside the steps that follow."""
        started = time.perf_counter()
        old = task.retrieval.index
        manifest = self._take(task, version, opened)
        if self.written is not None and old is not None:
            self.written.carry(old, task.retrieval.index, trained_step=self.trained_step)
        if self.ranks.rank == 0:
            self.store.pin({"in use": version})
        metrics = {"index/version": float(version), "index/age_steps": float(trainer.global_step - self.trained_step)}
        metrics |= {"index/refresh_seconds": manifest["seconds"], "index/recall": task.retrieval.index.recall}
        metrics["index/swap_seconds"] = time.perf_counter() - started
        self.look_at(trainer, task, old, metrics)

    def _take(self, task: LightningModule, version: int, opened: tuple[dict, Index]) -> dict:
        manifest, index = opened
        task.retrieval.adopt(index)
        self.version, self.tower, self.trained_step = version, manifest["tower"], manifest["trained_step"]
        return manifest

    def look_at(self, trainer: Trainer, task: LightningModule, old: Index | None, metrics: dict[str, float]) -> None:
        """Examines the index in use beside the next steps; at once if it changes at every step, or if searching it is a
        collective, for which the other ranks wait."""
        self._report_examined(trainer, wait=True)
        index = task.retrieval.index
        work = self.heldout.examine(task, old, index) if self.heldout else dict
        self._examining = metrics, Background(work)
        self._report_examined(trainer, wait=index.collective or self.written is not None)

    def _report_examined(self, trainer: Trainer, *, wait: bool) -> None:
        if self._examining is not None and (wait or self._examining[1].state() != UNDER_WAY):
            (metrics, work), self._examining = self._examining, None
            log(trainer, {**metrics, **work.result()})

    def _check_age(self, trainer: Trainer, task: LightningModule, step: int) -> None:
        limit, age = self.plan.max_age_steps, step - self.oldest_step()
        if limit is None or age <= limit:
            self._warned = False
            return
        word = f"the index is {age} steps old, more than refresh.max_age_steps={limit}"
        if self.plan.on_max_age == "fail":
            raise BadInput(
                f"refresh: {word}; see {self.run / 'refresh.log'}, go on with ckpt_path=last, and refresh more"
                " often, with more devices, or let it grow older"
            )
        if self.plan.on_max_age == "block":
            self.wait_for_younger(trainer, task, step)
        elif not self._warned:
            self._warned = True
            warnings.warn(f"refresh: {word}; training goes on with it", UserWarning, stacklevel=2)

    def wait_for_younger(self, trainer: Trainer, task: LightningModule, step: int) -> None:
        """Brings the age below its limit before training goes on."""
        self._encode(trainer, task)


def passage_tensors(task: LightningModule) -> dict[str, torch.Tensor]:
    """The weights that a refresh needs."""
    return dict(task.towers.passage.state_dict())


def refresher(
    store: IndexStore,
    corpus: Corpus,
    dim: int,
    plan: RefreshPlan,
    structure: SearchStructure,
    *,
    reuse_from: Sequence[IndexStore] = (),
) -> Refresher:
    """The refresher that the trainer uses inline and the worker in its own process."""
    return Refresher(
        store,
        corpus_hash=corpus.hash,
        count=corpus.count,
        dim=dim,
        dtype=plan.dtype,
        shard_size=plan.shard_size,
        keep=plan.keep,
        structure=structure,
        keys=corpus.passage_keys,  # rows of the same weights are not encoded again
        reuse_from=reuse_from,
    )
