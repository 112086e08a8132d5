"""The processes of a round: a trainer and a worker, both real in all that touches the disk, both breakable."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import torch
from faults import Faults, die, inject
from light_run import DIM, LightRun, Passages, make_encode, use_light_encoder

from realm_train.callbacks.adoption import refresher
from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.errors import BadInput
from realm_train.index.exact import Exact
from realm_train.index.store import IndexStore
from realm_train.index.worker import alone, done_when, follow

HEALED_WITHIN = 20.0  # seconds from the last attack to an index that is younger than it
NOT_HEALED, REFUSED = 3, 2


def train(folder: Path, plan: RefreshPlan, faults: Faults, seed: int) -> None:
    """Trains, from the last checkpoint if there is one, until there is peace and an index of weights younger than it.
    Exits with 0; with 2 for an error that a user would read, with 3 if the index does not recover."""
    begin(folder, faults, "trainer")
    use_light_encoder()
    with clear_errors():
        run = LightRun(folder, plan, seed=seed)
        if faults.die_in is not None:
            run.callback.adopt = dying(run.callback.adopt, at=faults.die_in)
        try:
            run.start()
            finish(run, folder)
        except BadInput as error:
            run.callback.on_exception(run.trainer, run.task, error)
            raise


def dying(adopt, *, at: str):
    """Dies before, in or after its second adoption; the first is that of the first index."""
    calls = []

    def adopted(trainer, task, version, opened):
        calls.append(version)
        if len(calls) == 2 and at == "before":
            die()
        if len(calls) == 2 and at == "during":
            task.retrieval.adopt = lambda index: die()
        adopt(trainer, task, version, opened)
        if len(calls) == 2 and at == "after":
            die()

    return adopted


def finish(run: LightRun, folder: Path) -> None:
    """Steps until the round is won."""
    peace_at, wanted = None, None
    while True:
        line = run.step()
        time.sleep(0.003)
        if peace_at is None and (folder / "peace").exists():
            peace_at, wanted = time.monotonic(), line["step"]
        if peace_at is not None and line["trained_step"] >= wanted:
            run.end()
            return
        if peace_at is not None and time.monotonic() - peace_at > HEALED_WITHIN:
            print(f"not healed: {line}, wanted an index of step {wanted}", flush=True)
            sys.exit(NOT_HEALED)


def work(folder: Path, plan: RefreshPlan, faults: Faults, locked: bool = True) -> None:
    """What `python -m realm_train.refresh` does, over the light tower."""
    begin(folder, faults, "worker")
    snapshots = folder / "snapshots"
    store = IndexStore(folder / "index")

    def make(tensors):
        encode = make_encode(tensors)

        def slow(ids):
            time.sleep(faults.slow)
            return encode(ids)

        return slow

    with clear_errors(), alone(snapshots / "worker.lock", wait_seconds=1.0) if locked else contextlib.nullcontext():
        follow(
            snapshots,
            refresher(store, Passages(), DIM, plan, Exact()),
            make,
            poll_seconds=0.005,
            done=done_when(snapshots / "DONE", trainer=snapshots / "trainer.json", patience_seconds=60.0),
            heartbeat=snapshots / "heartbeat.json",
        )


def begin(folder: Path, faults: Faults, who: str) -> None:
    """What this process says goes into the round's log."""
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(folder / f"{who}.log", "a", buffering=1)  # noqa: SIM115 (for as long as it lives)
    print(f"--- {who} with {faults}")
    inject(faults, notes=folder / "damage.jsonl")


@contextlib.contextmanager
def clear_errors():
    """As realm_train.command: one line and exit code 2 for what a user can mend."""
    try:
        yield
    except BadInput as error:
        print(f"error: {error}", flush=True)
        sys.exit(REFUSED)
