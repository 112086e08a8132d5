"""A training that costs milliseconds: the real refresh callbacks, over a tower of eight numbers.

What the tower's weights are after so many steps, and what vectors they give, is a formula: whatever happens in between,
anybody can say which bits belong into a version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer

from realm_train.callbacks import adoption, refresh
from realm_train.callbacks.adoption import Adoption
from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.data.corpus import Corpus
from realm_train.index.exact import Exact
from realm_train.index.snapshot import tower_hash
from realm_train.ports import EncodePassages

COUNT, DIM = 96, 8


class Passages(Corpus):
    """A corpus that is only a number of passages."""

    def __init__(self, count: int = COUNT) -> None:
        self.count, self.hash, self.folder = count, "c0ffee", Path("passages")
        self.passage_keys = np.arange(count, dtype=np.uint64)


class LightTower(torch.nn.Module):
    """A vector of the passage tower's weights; passage i is i times them."""

    dim = DIM

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(DIM))


def tensors_at(step: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """The tower's weights after so many steps."""
    return {"weight": torch.randn(DIM, generator=torch.Generator().manual_seed(1000 * seed + step))}


def make_encode(tensors: Mapping[str, torch.Tensor]) -> EncodePassages:
    """Passage ids -> vectors; element by element, so that the bits do not depend on what is encoded together."""
    return lambda ids: torch.from_numpy(np.asarray(ids) + 1.0).float()[:, None] * tensors["weight"].detach()


def vectors_at(step: int, seed: int = 0, *, count: int = COUNT) -> torch.Tensor:
    """What a version of this step must hold."""
    return make_encode(tensors_at(step, seed))(np.arange(count))


def rolled_vectors(step: int, *, every: int, count: int = COUNT) -> torch.Tensor:
    """What a rolling index must hold: row by row, the vector of the last step at which it was its turn."""
    return torch.stack([vectors_at(int(last))[row] for row, last in enumerate(last_turns(step, every, count))])


def last_turns(step: int, every: int, count: int = COUNT) -> np.ndarray:
    """The last step at which each row was encoded in turn; 0 before its first turn."""
    ends = np.array([count * (turn + 1) // every for turn in range(every)])
    turns = np.searchsorted(ends, np.arange(count), side="right")
    return np.maximum(0, step - (step - 1 - turns) % every)


def light_encoder(tower: LightTower, corpus: Corpus, **settings: object) -> EncodePassages:
    """Stands for realm_train.tasks.encode.passage_encoder."""
    return make_encode({"weight": tower.weight.detach().clone()})


def use_light_encoder(put: Callable[[object, str, object], None] = setattr) -> None:
    """Puts it where the callbacks look; a test gives its monkeypatch.setattr."""
    put(adoption, "passage_encoder", light_encoder)
    put(refresh, "passage_encoder", light_encoder)


class LightTask(LightningModule):
    """What the callbacks ask of a task."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = LightTower()
        self.towers = SimpleNamespace(passage=self.tower)
        self.retrieval = SimpleNamespace(index=None, adopt=lambda index: setattr(self.retrieval, "index", index))
        self.keep_vectors, self.kept, self.logged = False, [], {}

    def log_dict(self, dictionary: Mapping[str, float], **settings: object) -> None:
        self.logged |= dictionary

    def kept_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.kept.pop()


class LightTrainer(Trainer):
    """What the callbacks ask of Lightning's Trainer."""

    global_step, max_steps, is_global_zero, loggers = 0, 10**9, True, ()

    def __init__(self, checkpoints: Path) -> None:
        self.callback_metrics = {}
        self.checkpoint_callback = SimpleNamespace(dirpath=checkpoints)
        self.is_global_zero = rank() == 0

    callback_metrics = checkpoint_callback = None


def rank() -> int:
    """This process's, among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


class LightRun:
    """`start()`, then `step()` again and again, then `end()`; made anew on the same folder, it goes on from the last
    checkpoint. Every step is checked, and written to steps.jsonl: the index in use holds the vectors of the step it
    says, to the bit."""

    def __init__(self, folder: Path, plan: RefreshPlan, *, seed: int = 0, checkpoint_every: int = 5, keep: int = 2):
        self.folder, self.plan, self.seed = folder, plan, seed
        self.checkpoint_every, self.keep = checkpoint_every, keep
        self.checkpoints = folder / "checkpoints" / "pretrain"
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.task, self.trainer = LightTask(), LightTrainer(self.checkpoints)
        self.callback: Adoption = refresh.MODES[plan.mode](
            folder, Passages(), plan, Exact(), passage_length=8, precision="32-true"
        )

    def start(self) -> None:
        saved = sorted(self.checkpoints.glob("step-*.ckpt"))
        if saved:
            checkpoint = torch.load(saved[-1], weights_only=False)
            self.trainer.global_step = checkpoint["global_step"]
            self.callback.load_state_dict(checkpoint["callbacks"][self.callback.state_key])
        self._learn()
        self.callback.on_train_start(self.trainer, self.task)
        self.check()

    def step(self) -> dict:
        """One optimiser step, and what it trained with next."""
        self.trainer.global_step += 1
        self._learn()
        self.callback.on_train_batch_end(self.trainer, self.task)
        self.check()
        append(self.folder / ("steps.jsonl" if rank() == 0 else f"steps-{rank()}.jsonl"), line := self.line())
        if self.trainer.global_step % self.checkpoint_every == 0:
            self.save()
        return line

    def line(self) -> dict:
        """Which index is in use now."""
        at = {"step": self.trainer.global_step, "version": self.callback.version}
        return at | {"trained_step": self.callback.trained_step, "age": self.task.logged.get("index/age_steps")}

    def end(self) -> None:
        """As Lightning does after the last step."""
        self.trainer.max_steps = self.trainer.global_step
        self.callback.on_train_end(self.trainer, self.task)

    def save(self) -> None:
        """A checkpoint, written aside and renamed; the newest `keep` stay."""
        checkpoint = {
            "global_step": self.trainer.global_step,
            "callbacks": {self.callback.state_key: self.callback.state_dict()},
        }
        self.callback.on_save_checkpoint(self.trainer, self.task, checkpoint)
        if rank() != 0:
            return
        target = self.checkpoints / f"step-{self.trainer.global_step:06d}.ckpt"
        torch.save(checkpoint, target.with_suffix(".partial"))
        target.with_suffix(".partial").rename(target)
        for old in sorted(self.checkpoints.glob("step-*.ckpt"))[: -self.keep]:
            old.unlink()

    def _learn(self) -> None:
        self.task.tower.load_state_dict(tensors_at(self.trainer.global_step, self.seed))

    def check(self) -> None:
        """Raises AssertionError unless the index in use is what it says it is."""
        if self.callback.written is not None:
            return
        step = self.callback.trained_step
        assert self.callback.tower == tower_hash(tensors_at(step, self.seed)), f"another tower in use at {self.line()}"
        got, expected = self.task.retrieval.index.vectors, vectors_at(step, self.seed)
        assert got.shape == expected.shape and torch.equal(got.float(), expected), f"wrong vectors at {self.line()}"


def append(path: Path, line: Mapping[str, object]) -> None:
    """One JSON line more."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def lines(path: Path) -> list[dict]:
    """The JSON lines of a file; a last one that a kill has cut off is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
