"""One round: a light training and its worker, attacked while a watcher opens every version as soon as it is visible."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from children import NOT_HEALED, REFUSED, train, work
from faults import Faults, damage_file
from light_run import COUNT, Passages, append, lines, tensors_at, vectors_at

from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.errors import BadInput
from realm_train.index.snapshot import latest_snapshot, tower_hash
from realm_train.index.store import IndexStore

EVERY = 8
PRELOADED = ["realm_train.callbacks.refresh", "safetensors.torch"]
processes = multiprocessing.get_context("forkserver")  # a fresh process in milliseconds: torch is imported once
processes.set_forkserver_preload(PRELOADED)

USERS_FILES = {
    "passages.jsonl": "the corpus",
    "notes.txt": "found in the run folder",
    "index/notes.txt": "found in the index folder",
    "index/v000001-copy/embeddings.npy": "a copy that somebody made",
    "index/vacation/manifest.json": "{}",
    "index/.partial-mine/notes.txt": "no name that ours could have",
    "snapshots/s-mine/weights.safetensors": "a snapshot that somebody keeps",
    "checkpoints/pretrain/best.ckpt": "a checkpoint that somebody copied",
}


class Watcher(threading.Thread):
    """Lists and opens versions all the time: each opens and holds what its step's weights give, or was damaged."""

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(daemon=True)
        self.store, self.notes, self.seed = IndexStore(folder / "index"), folder / "damage.jsonl", seed
        self.seen: dict[tuple[int, int], str] = {}  # (inode, version): what came of opening it
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.002):
            for version in self.store.versions():
                self._look(version)

    def _look(self, version: int) -> None:
        try:
            inode = self.store.folder(version).stat().st_ino
        except FileNotFoundError:
            return  # pruned or put aside since it was listed
        if self.seen.get((inode, version)) is None:
            self.seen[inode, version] = self._open(version)

    def _open(self, version: int) -> str | None:
        try:
            manifest, embeddings = self.store.load(version, corpus=Passages().hash)
        except BadInput as error:
            return f"refused: {error}" if self.store.folder(version).exists() else None
        step = manifest["trained_step"]
        if manifest["tower"] != tower_hash(tensors_at(step, self.seed)):
            return "foreign"
        return "whole" if torch.equal(torch.from_numpy(embeddings), vectors_at(step, self.seed)) else "wrong vectors"

    def end(self) -> None:
        self._ended.set()
        self.join()

    def complaints(self) -> list[str]:
        """What was seen that nobody had damaged."""
        damaged = {note["version"] for note in lines(self.notes)}
        seen = [(version, came) for (_, version), came in self.seen.items()]
        return [
            f"v{version:06d}: {came}"
            for version, came in seen
            if came == "wrong vectors" or (came != "whole" and version not in damaged)
        ]


def waited(condition: Callable[[], object], *, seconds: float) -> bool:
    """Whether it came true in time."""
    until = time.monotonic() + seconds
    while not (met := bool(condition())) and time.monotonic() < until:
        time.sleep(0.002)
    return met


class Arena:
    """Starts, breaks and starts again; ends with `won()`."""

    def __init__(self, folder: Path, seed: int, *, lag: int | None) -> None:
        self.folder, self.seed, self.lag, self.rng = folder, seed, lag, random.Random(seed)
        self.plan = RefreshPlan(mode="job", every=EVERY, shard_size=8, keep=3, adopt_lag=lag, patience_seconds=15.0)
        self.started = time.monotonic()
        self.trainer: multiprocessing.Process | None = None
        self.workers: dict[int, multiprocessing.Process] = {}
        self.retired: set[int] = set()
        for name, text in USERS_FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        self.watcher = Watcher(folder, seed)
        self.watcher.start()

    def train(self, **faults: object) -> None:
        """Starts the trainer, or starts it again; one that lives is killed first."""
        if self.trainer is not None:
            self.kill(self.trainer)
        self.trainer = self._begin(train, self.folder, self.plan, Faults(**faults), self.seed)

    def work(self, *, seat: int = 0, locked: bool = True, **faults: object) -> None:
        """Starts a worker, or starts it again; one that lives is killed first."""
        if seat in self.workers:
            self.kill(self.workers[seat])
        self.workers[seat] = self._begin(work, self.folder, self.plan, Faults(**faults), locked)

    def _begin(self, target: Callable, *args: object) -> multiprocessing.Process:
        process = processes.Process(target=target, args=args, daemon=True)
        process.start()
        return process

    def tend(self) -> bool:
        """Starts again what has died, as a scheduler would; says whether training is over."""
        for seat, process in self.workers.items():
            if process.exitcode == REFUSED and seat > 0:
                self.retired.add(seat)  # the second of two workers, which the lock has refused
            elif process.exitcode is not None and seat not in self.retired:
                self.work(seat=seat)
        if self.trainer.exitcode in (0, NOT_HEALED):
            return True
        if self.trainer.exitcode is not None:
            self.train()
        return False

    def run(self, seconds: float, until: Callable[[], object] = lambda: False) -> object:
        """Lets both run for so long, or until something is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := until():
                return found
            if self.tend():
                return None
            time.sleep(0.005)
        return None

    def kill(self, process: multiprocessing.Process) -> None:
        """SIGKILL, now."""
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()

    def shards(self) -> list[Path]:
        """What the refresh of the newest snapshot has finished."""
        newest = latest_snapshot(self.folder / "snapshots")
        return [] if newest is None else sorted(self.folder.glob(f"index/.work-*-{newest.name[1:]}-*/shard-*.npy"))

    def damage_shard(self, kind: str, **faults: object) -> bool:
        """Kills the worker in the middle of a refresh, damages a shard that it has finished, and lets another worker go
        on from there; the trainer is held meanwhile, so that there is no newer snapshot. Says whether it came to that.
        """
        store, worker = IndexStore(self.folder / "index"), self.workers[0]
        os.kill(self.trainer.pid, signal.SIGSTOP)
        try:
            waited(lambda: len(self.shards()) > 1 or self.nothing_to_encode(), seconds=10.0)
            os.kill(worker.pid, signal.SIGSTOP)
            shards, published = self.shards(), store.latest()
            if not shards:
                os.kill(worker.pid, signal.SIGCONT)
                return False
            damage_file(self.rng.choice(shards), kind, self.rng)
            self.work(**faults)
            assert waited(lambda: store.latest() != published, seconds=20.0), "a damaged shard stops the refresh"
            return True
        finally:
            os.kill(self.trainer.pid, signal.SIGCONT)

    def nothing_to_encode(self) -> bool:
        """Whether the newest snapshot, if there is one, has been published."""
        newest = latest_snapshot(self.folder / "snapshots")
        published = IndexStore(self.folder / "index").latest_step()
        return newest is None or (published is not None and published >= int(newest.name[1:]))

    def publish_foreign(self, *, step: int, seed: int) -> None:
        """A whole version of another training with the same corpus, copied into this one's index."""
        store = IndexStore(self.folder / "index")
        vectors, tower = vectors_at(step, seed).numpy(), tower_hash(tensors_at(step, seed))
        kept = {"count": COUNT, "dim": vectors.shape[1], "dtype": "float32", "corpus": Passages().hash}
        version = store.publish([vectors], trained_step=step, tower=tower, seconds=0.0, keep=100, **kept)
        append(self.folder / "damage.jsonl", {"version": version, "damage": "foreign"})

    def won(self) -> list[str]:
        """Peace; then everything that is not as it should be."""
        (self.folder / "peace").touch()
        self.run(60.0)
        wrong = [] if self.trainer.exitcode == 0 else [f"the trainer ended with {self.trainer.exitcode}"]
        for seat, worker in self.workers.items():
            worker.join(10.0)
            if worker.exitcode is None:
                wrong.append(f"worker {seat} did not end with training")
        self.watcher.end()
        wrong += self.watcher.complaints() + self._lost_files() + self._lost_versions() + self._wrong_steps()
        wrong += [line for line in self.log().splitlines() if "AssertionError" in line]
        return wrong

    def close(self) -> None:
        """Ends what is still alive."""
        for process in [self.trainer, *self.workers.values()]:
            if process is not None:
                self.kill(process)
        self.watcher.end()

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def _lost_files(self) -> Sequence[str]:
        texts = {name: (self.folder / name) for name in USERS_FILES}
        return [
            f"{name}: gone or changed"
            for name, path in texts.items()
            if not path.exists() or path.read_text() != USERS_FILES[name]
        ]

    def _lost_versions(self) -> Sequence[str]:
        """Checkpoints whose index is no longer there."""
        wrong, store = [], IndexStore(self.folder / "index")
        for path in sorted((self.folder / "checkpoints" / "pretrain").glob("step-*.ckpt")):
            (state,) = torch.load(path, weights_only=False)["callbacks"].values()
            try:
                store.load(state["version"], corpus=Passages().hash, tower=state["tower"])
            except BadInput as error:
                wrong.append(f"{path.name}: {error}")
        return wrong

    def _wrong_steps(self) -> Sequence[str]:
        """Steps that trained with another index than `adopt_lag` says, or that a resumed run has left out."""
        taken = lines(self.folder / "steps.jsonl")
        wrong = [] if {line["step"] for line in taken} == set(range(1, taken[-1]["step"] + 1)) else ["steps left out"]
        if self.lag is not None:
            due = {line["step"]: max(0, (line["step"] - self.lag) // EVERY * EVERY) for line in taken}
            wrong += [f"{line}, expected {due}" for line in taken if line["trained_step"] != due[line["step"]]]
        return wrong
