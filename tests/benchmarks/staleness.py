"""How stale an index grows, and what keeps it fresh: overlap@k of the index in use with one encoded here and now.

    python tests/benchmarks/staleness.py corpus=data/vital steps=120 every=30 lag=15 look=10 picture=staleness.svg

Every mode trains from the same warm retriever and reader (warm=… a run with the stages ict and mlm; else one is trained
here), on the same sentences: the first index for ever, a refresh process, a rolling refresh, and each with the vectors
of the candidates written back. Every `look` steps the corpus is encoded with the live weights, and the held-out
questions, embedded with the live weights too, are looked up in both indexes. The process's versions are adopted exactly
`lag` steps after their snapshot: what is measured does not depend on how long the measuring takes. The retriever learns
faster than in the quick start, so that an index that nobody refreshes grows old within minutes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from apparatus.report import Report, settings
from apparatus.trial import corpus_at, trained, words_of

from realm_train.callbacks.adoption import Adoption
from realm_train.evaluation.chart import Line
from realm_train.evaluation.picture import picture
from realm_train.index.exact import ExactIndex
from realm_train.tasks.encode import passage_encoder

COLOURS = {"none": 2, "process": 1, "rolling": 3}


class Staleness(pl.Callback):
    """Compares the index in use with a fresh one before training and every `look` steps."""

    def __init__(self, look: int) -> None:
        self.look, self.points = look, []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._compare(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        step = trainer.global_step
        if step % self.look == 0 and step != self.points[-1]["step"]:
            self._compare(trainer, pl_module)

    def _compare(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        refresh = next(one for one in trainer.callbacks if isinstance(one, Adoption))
        tower, used = task.towers.passage, task.retrieval.index
        length, precision = refresh.passage_length, refresh.precision
        encode = passage_encoder(tower, refresh.corpus, max_length=length, precision=precision)
        fresh = ExactIndex(encode(np.arange(refresh.corpus.count)))
        compared = refresh.heldout.examine(task, used, fresh)()
        now = refresh.heldout.examine(task, None, used)()
        self.points.append(
            {
                "step": trainer.global_step,
                "oldest": trainer.global_step - refresh.oldest_step(),
                "overlap": {k: round(compared[f"index/overlap@{k}"], 4) for k in (1, 5, 20)},
                "recall@20": round(now["retrieval/recall@20"], 4),
                "recall@20 of a fresh index": round(compared["retrieval/recall@20"], 4),
            }
        )


def words_for(mode: str, *, written: bool, every: int, lag: int) -> list[str]:
    """The configuration of one line of the picture."""
    how = {
        "none": ["refresh=inline", "refresh.every=1000000"],
        "process": ["refresh=process", f"refresh.every={every}", f"refresh.adopt_lag={lag}"],
        "rolling": ["refresh=rolling", f"refresh.every={every}"],
    }
    return [*how[mode], f"refresh.write_back={str(written).lower()}"]


def name_of(mode: str, written: bool) -> str:
    return f"{mode}, written back" if written else mode


def drawn(results: dict[tuple[str, bool], list[dict]], *, every: int, lr: float) -> str:
    """Overlap@20 over steps, a line a mode."""
    lines = [
        Line(
            name_of(mode, written),
            [(point["step"], point["overlap"][20]) for point in points],
            COLOURS[mode],
            "dashes" if written else "line",
        )
        for (mode, written), points in results.items()
    ]
    note = f"Overlap@20 of the index in use with a fresh one, live queries; every={every} steps, retriever lr {lr:g}."
    return picture("How stale is the index?", lines, note=note, ceiling=1)


def main() -> None:
    told = settings(
        corpus="",
        limit=1000,
        warm="",
        ict_steps=40,
        mlm_steps=20,
        steps=40,
        every=10,
        lag=5,
        look=5,
        lr=1e-4,
        batch=16,
        layers=2,
        heldout=128,
        threads=2,
        seed=1,
        modes=["none", "process", "rolling"],
        picture="staleness.svg",
        out="",
    )
    report = Report("staleness", told)
    every, results = told["every"], {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        words = words_of(corpus_at(told["corpus"], scratch, limit=told["limit"]))
        words += [f"threads={told['threads']}", f"seed={told['seed']}", f"model.reader.layers={told['layers']}"]
        stages = ["stages=[ict,mlm]", f"ict.steps={told['ict_steps']}", f"mlm.steps={told['mlm_steps']}"]
        warm = Path(told["warm"]) if told["warm"] else trained(scratch / "warm", [*words, *stages, "ict.heldout=0"])
        words += [f"pretrain.steps={told['steps']}", f"pretrain.lr_retriever={told['lr']}"]
        words += [f"pretrain.batch_size={told['batch']}", f"pretrain.micro_batch_size={told['batch']}"]
        words += ["stages=[ict,mlm,pretrain]", f"pretrain.heldout={told['heldout']}", "refresh.final=false"]
        for mode in told["modes"]:
            for written in (False, True):
                run, watch = scratch / f"{mode}-{written}", Staleness(told["look"])
                for stage in ("ict", "mlm"):
                    shutil.copytree(warm / "checkpoints" / stage, run / "checkpoints" / stage)
                how = words_for(mode, written=written, every=every, lag=told["lag"])
                trained(run, [*words, *how], watch)
                shutil.rmtree(run)
                results[mode, written] = watch.points
                means = {k: round(float(np.mean([p["overlap"][k] for p in watch.points[1:]])), 4) for k in (1, 5, 20)}
                report.say(refresh=mode, write_back=written, mean_overlap=means, points=watch.points)
    if told["picture"]:
        Path(told["picture"]).write_text(drawn(results, every=every, lr=told["lr"]), encoding="utf-8")
    report.write()


if __name__ == "__main__":
    main()
