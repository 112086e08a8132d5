"""Real training runs to measure in: a corpus, a warm retriever, and callbacks that look on."""

from __future__ import annotations

import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import pytorch_lightning as pl

from data_prep import passages
from realm_train import stages, train
from realm_train.command import compose


def corpus_at(folder: str, scratch: Path, *, limit: int = 0) -> str:
    """The corpus asked for, or, for an empty name, the small Wikipedia (or its first documents) made in `scratch`."""
    if folder:
        return str(Path(folder).resolve())
    made = scratch / "corpus"
    words = ["source=vital", "max_length=96", f"out={made}", "workers=1", f"limit={limit or 'null'}"]
    with redirect_stdout(sys.stderr):
        passages.main(compose("data_prep/passages", *words))
    return str(made)


def words_of(corpus: str) -> list[str]:
    """The quick start on this corpus; without salient spans, random ones are masked, which need no tagger."""
    if (Path(corpus) / "spans" / "manifest.json").exists():
        return [f"corpus={corpus}"]
    return [f"corpus={corpus}", "masking=span", "ict.across_rate=0.0", "mlm.oracle=false"]


def trained(run: Path, words: list[str], *observers: pl.Callback) -> Path:
    """Trains as `python -m realm_train.train experiment=quickstart …` does, watched by callbacks that come last."""
    make = stages.make_trainer

    def observed(*settings: object) -> pl.Trainer:
        trainer = make(*settings)
        trainer.callbacks.extend(observers)
        return trainer

    cfg = compose("train", "experiment=quickstart", f"run={run}", "trainer.accelerator=cpu", *words)
    with mock.patch.object(stages, "make_trainer", observed), warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        train.main(cfg)
    return run
