"""Who keeps the index fresh: training itself (inline, rolling), or another process beside it (process, job)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer

from realm_train.callbacks.adoption import Adoption, passage_tensors
from realm_train.callbacks.loading import READY, REFUSED, UNDER_WAY, Background, Loading
from realm_train.callbacks.worker_process import WorkerProcess
from realm_train.errors import BadInput
from realm_train.index.aside import write_json
from realm_train.index.snapshot import tower_hash, write_snapshot
from realm_train.ports import Index
from realm_train.tasks.encode import passage_encoder

NONE = -1  # the word for "no version" among the ranks
PUT_ASIDE = 3  # versions in a row that are refused and made again: then it is no accident
BEAT_SECONDS = 5.0


class Inline(Adoption):
    """Training waits while the corpus is encoded: bit-for-bit reproducible."""

    def boundary(self, trainer: Trainer, task: LightningModule, step: int) -> None:
        if step % self.plan.every == 0 and step < trainer.max_steps:
            self._encode(trainer, task)


class Rolling(Adoption):
    """Every step encodes the next 1/`every` of the corpus with the live weights: no vector is older than `every` steps.

    The in-memory index changes row by row; a checkpoint holds the rows that are not of the version it names.
    """

    def boundary(self, trainer: Trainer, task: LightningModule, step: int) -> None:
        rows = self._slice(step)
        tower = task.towers.passage
        encode = passage_encoder(tower, self.corpus, max_length=self.passage_length, precision=self.precision)
        ids, vectors = self.ranks.gathered(torch.from_numpy(rows), encode(rows))
        self.written.write(task.retrieval.index, ids, vectors, step=step)
        if step % self.plan.every == 0:
            self.look_at(trainer, task, None, {"index/age_steps": float(step - self.oldest_step())})

    def _slice(self, step: int) -> np.ndarray:
        """This rank's part of the passages whose turn it is."""
        turn = (step - 1) % self.plan.every
        start, end = (self.corpus.count * edge // self.plan.every for edge in (turn, turn + 1))
        return np.array_split(np.arange(start, end), self.ranks.world)[self.ranks.rank]

    def oldest_step(self) -> int:
        return max(self.trained_step, self._boundary - self.plan.every + 1)


class Beside(Adoption):
    """Snapshots go to another process, and what it publishes is opened by a thread and adopted at a step boundary.

    Rank 0 says which version is next; all ranks swap once all have opened it. What is damaged, or of weights that this
    training has not handed out, is refused and put aside: the other process makes it again.
    """

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)
        self._asked: int | None = None  # the step of the last snapshot
        self._writing: Background | None = None  # the last snapshot on its way to the disk
        self._towers: dict[int, str] = {}  # hashes of the snapshots that may still come back as versions, by step
        self._worker: WorkerProcess | None = None
        self._loading: Loading | None = None
        self._refused: set[int] = set()
        self._threads: int | None = None  # what the trainer had before it lent some to the worker
        self._beaten = -BEAT_SECONDS

    def state_dict(self) -> dict:
        return {**super().state_dict(), "asked": self._asked}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._asked, self._towers = state_dict["asked"], dict(state_dict.get("towers", {}))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict) -> None:
        self._wait_for_snapshot()  # a resumed run finds every snapshot that its checkpoint knows of
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["callbacks"][self.state_key]["towers"] = dict(self._towers)

    def start(self, trainer: Trainer, task: LightningModule) -> None:
        if self.ranks.rank == 0:
            (self.snapshots / "DONE").unlink(missing_ok=True)
            self._beat(trainer.global_step)
            if self.plan.mode == "process":
                self._worker = WorkerProcess(self.run, self.plan)
        if self._pending:
            self._lend_threads(task)

    @property
    def _pending(self) -> bool:
        """Whether a snapshot is not adopted yet."""
        return self._asked is not None and self._asked > self.trained_step

    def boundary(self, trainer: Trainer, task: LightningModule, step: int) -> None:
        if self.plan.adopt_lag is not None and self._pending and step >= self._asked + self.plan.adopt_lag:
            self._adopt_asked(trainer, task, step)
        if step % self.plan.every == 0 and step < trainer.max_steps:
            self._snapshot(task, step)
        if self.ranks.rank == 0:
            self._tend(step, task)
        before = self._loading
        loading = self._opening()
        if self.plan.adopt_lag is None and before is not None:  # opened beside one whole step at least
            self._adopt_if_open(trainer, task, loading)

    def stop(self, *, finished: bool) -> None:
        self._take_threads_back()
        if self._loading is not None:
            self._loading.give_up()
        if finished:
            self._wait_for_snapshot()
        if self._worker is not None or (finished and self.ranks.rank == 0):
            self.snapshots.mkdir(parents=True, exist_ok=True)
            (self.snapshots / "DONE").touch()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _tend(self, step: int, task: LightningModule) -> None:
        """Shows that training lives, and looks after the worker."""
        self._beat(step)
        if self._worker is not None and not self._worker.tend(self.store.latest()) and self.plan.adopt_lag is None:
            self._take_threads_back()

    def _beat(self, step: int) -> None:
        if time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._beaten = time.monotonic()
            state = {"host": socket.gethostname(), "pid": os.getpid(), "step": step, "time": time.time()}
            write_json(self.snapshots / "trainer.json", state)

    def _snapshot(self, task: LightningModule, step: int) -> None:
        """Copies the tower's weights; a thread writes them to disk while training goes on."""
        if self.ranks.rank == 0:
            self._wait_for_snapshot()
            tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in passage_tensors(task).items()}
            queries = self.questions(task)

            def write() -> None:
                self._towers[step] = tower_hash(tensors)
                write_snapshot(self.snapshots, step=step, tensors=tensors, queries=queries)

            self._writing = Background(write)
        self._asked = step
        self._lend_threads(task)

    def _wait_for_snapshot(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            try:
                writing.result()
            except BadInput as error:
                if self.plan.adopt_lag is not None:
                    raise  # the version that is waited for would never come
                print(
                    f"index: no snapshot of step {self._asked}, training goes on with the old index: {error}",
                    flush=True,
                )

    def _opening(self) -> Loading | None:
        """The version that all ranks are opening; another one as soon as rank 0 names it."""
        wanted = self.ranks.broadcast(self._wanted())
        if wanted != NONE and self._loading is None:
            self._loading = self._load(wanted)
        return self._loading

    def _wanted(self) -> int:
        """The version under way, or news; only rank 0's answer counts."""
        if self._loading is not None:
            return self._loading.version
        news = self._published_since(self.trained_step + 1) if self.ranks.rank == 0 else None
        return NONE if news is None else news

    def _published_since(self, step: int) -> int | None:
        return self.store.trained_since(step, besides=self._refused)

    def _load(self, version: int) -> Loading:
        manifest = self.store.folder(version) / "manifest.json"

        def there() -> bool:
            return manifest.exists() or max(self.store.versions(), default=version) > version  # pruned: it is too late

        return Loading(version, there=there, open=self._open_own)

    def _open_own(self, version: int) -> tuple[dict, Index]:
        """Opens a version of weights that this training has handed out; rank 0, which did, refuses any other."""
        manifest, index = self._open(version)
        step, tower = manifest["trained_step"], manifest["tower"]
        if self.ranks.rank == 0 and tower != self._towers.get(step):
            raise BadInput(
                f"{self.store.folder(version)}: got tower {tower} of step {step}, expected one that this training has"
                f" handed out and not adopted yet (steps {sorted(list(self._towers))}); it is of another training"
            )
        return manifest, index

    def _adopt_if_open(self, trainer: Trainer, task: LightningModule, loading: Loading) -> None:
        state = self.ranks.least(loading.state())
        if state == UNDER_WAY:
            return
        self._loading = None
        if state == REFUSED:
            self._refuse(loading)
        else:
            self._swap(trainer, task, loading)

    def _refuse(self, loading: Loading) -> None:
        """Never looks at this version again; rank 0 puts it aside, so that the other process makes another."""
        self._refused.add(loading.version)
        error = loading.error() if loading.state() == REFUSED else None
        if error is None:
            return  # another rank says why
        again = isinstance(error, BadInput) and self.ranks.rank == 0 and len(self._refused) <= PUT_ASIDE
        place = self.store.refuse(loading.version) if again else None
        print(
            f"index: version {loading.version} is not adopted{f' but put aside as {place.name}' if place else ''},"
            f" training goes on with the old index: {error}",
            flush=True,
        )

    def _swap(self, trainer: Trainer, task: LightningModule, loading: Loading) -> None:
        self.adopt(trainer, task, loading.version, loading.result())
        self._refused.clear()
        for step in [step for step in list(self._towers) if step <= self.trained_step]:  # a thread may be adding one
            del self._towers[step]
        if not self._pending:  # else the worker goes on with a newer snapshot at once
            self._take_threads_back()

    def _adopt_asked(self, trainer: Trainer, task: LightningModule, step: int) -> None:
        """Swaps to the version of the last snapshot, however long it takes."""
        self._await(trainer, task, step, lambda: self._published_since(self._asked))

    def wait_for_younger(self, trainer: Trainer, task: LightningModule, step: int) -> None:
        wanted = step - self.plan.max_age_steps
        self._loading = None
        self._await(trainer, task, step, lambda: self._published_since(wanted))

    def _await(self, trainer: Trainer, task: LightningModule, step: int, find: Callable[[], int | None]) -> None:
        """Waits until rank 0 finds a version and has opened it; no collective is open meanwhile."""
        started = time.monotonic()
        self._wait_for_snapshot()

        def opened() -> int | None:
            if self._loading is None and (version := find()) is not None:
                self._loading = self._load(version)
            if self._loading is None or self._loading.state() == UNDER_WAY:
                return None
            if self._loading.state() == READY:
                return self._loading.version
            loading, self._loading = self._loading, None
            return self._refuse(loading)

        def meanwhile() -> None:
            if self.ranks.rank == 0:
                self._tend(step, task)
            self._lose_patience(step, time.monotonic() - started)

        version = self.ranks.decided(f"adopt-{step}", opened, meanwhile=meanwhile)
        if self._loading is None or self._loading.version != version or self._loading.state() == REFUSED:
            self._loading = self._load(version)
        loading, self._loading = self._loading, None
        self._swap(trainer, task, loading)

    def _lose_patience(self, step: int, waited: float) -> None:
        given_up = self._worker is not None and self._worker.given_up
        if given_up or waited > self.plan.patience_seconds:
            raise BadInput(
                f"refresh: training waited {waited:.0f} s at step {step} for an index that does not come;"
                f" see {self.run / 'refresh.log'}, mend the refresh process, and go on with ckpt_path=last"
            )

    def _lend_threads(self, task: LightningModule) -> None:
        lends = self.plan.mode == "process" and self.plan.device == task.device.type == "cpu"
        if self._threads is None and lends:
            self._threads = torch.get_num_threads()
            torch.set_num_threads(max(1, self._threads - self.plan.threads))

    def _take_threads_back(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
            self._threads = None


MODES = {"inline": Inline, "process": Beside, "job": Beside, "rolling": Rolling}
