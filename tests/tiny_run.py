"""Whole runs, small: a corpus of some sixty passages with spans, a random BERT 32 wide, two or three steps a stage."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from realm_train.data.corpus import Corpus

SIZES = [  # of a model that is trained in a second; dropout, so that random numbers matter
    "model=scratch",
    "model.dropout=0.1",
    "model.encoder.hidden_size=32",
    "model.encoder.intermediate_size=64",
    "model.towers.encoder.layers=1",
    "model.reader.layers=1",
    "model.encoder.max_position_embeddings=160",
    "passage_length=96",
    "query_length=48",
    "ict.heldout=4",
    "pretrain.heldout=8",
    "heldout_percent=30.0",
    *(ON_CPU := ["trainer.accelerator=cpu", "trainer.precision=32-true", "threads=1"]),
]
STEPS = [
    "ict.steps=2",
    "ict.batch_size=8",
    "ict.micro_batch_size=4",
    "mlm.steps=2",
    "mlm.batch_size=8",
    "mlm.micro_batch_size=4",
    "pretrain.steps=3",
    "pretrain.batch_size=4",
    "pretrain.micro_batch_size=2",
    "pretrain.k=4",
    "refresh.every=2",
    "checkpoints.every=2",
]
INLINE = ["refresh=inline"]


class CapitalisedWords:
    """A tagger without a model: what is written with a capital inside a sentence is a name."""

    def __call__(self, texts: Sequence[str]) -> list[list]:
        from data_prep.taggers import Entity

        names = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)*")
        return [[Entity(*found.span(), "NAME") for found in names.finditer(text)] for text in texts]

    def settings(self) -> dict:
        return {"tagger": "capitalised words"}

    def version(self) -> dict:
        return {}


@pytest.fixture(autouse=True)
def threads():
    """One thread in a run, and afterwards as many as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def spans_folder(corpus_folder, tmp_path_factory) -> Path:
    """A copy of the shared corpus, with salient spans; not to be written to."""
    from data_prep.spans import prepare_spans

    folder = tmp_path_factory.mktemp("with_spans") / "corpus"
    shutil.copytree(corpus_folder, folder)
    prepare_spans(corpus=folder, tagger=CapitalisedWords(), workers=1)
    return folder


@pytest.fixture(scope="session")
def overrides(spans_folder) -> list[str]:
    """A small run of both stages with an inline refresh, as words of a command line."""
    return [f"corpus={spans_folder}", *INLINE, *SIZES, *STEPS]


@pytest.fixture(scope="session")
def pretrained(overrides, tmp_path_factory) -> Path:
    """A run of both stages, to fine-tune; not to be written to."""
    from realm_train.command import compose
    from realm_train.train import main

    run, threads = tmp_path_factory.mktemp("pretrained") / "run", torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="cold start")
        main(compose("train", f"run={run}", *overrides))
    torch.set_num_threads(threads)
    return run


@pytest.fixture(scope="session")
def questions_file(spans_folder, tmp_path_factory) -> Path:
    """Sentences of the corpus with a salient span asked for, one a passage."""
    corpus, lines = Corpus(spans_folder), []
    for passage in range(corpus.count):
        text = corpus.passage(passage)["text"]
        for sentence, start, end, *_ in corpus.spans(passage)[:1].tolist():
            first, last = corpus.sentences(passage)[sentence][:2].tolist()
            question = text[first:start] + "what" + text[end:last].rstrip(". ") + "?"
            lines.append(json.dumps({"question": question, "answers": [text[start:end]]}))
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def train(overrides, tmp_path) -> Callable[..., Path]:
    """`train("seed=2", …)`: trains in this process with these overrides, and returns the run's folder."""
    from realm_train.command import compose
    from realm_train.train import main

    def train(*words: str, run: str = "run") -> Path:
        main(compose("train", f"run={tmp_path / run}", *overrides, *words))
        return tmp_path / run

    return train


@pytest.fixture
def before_step(monkeypatch) -> dict[int, Callable[[], None]]:
    """`before_step[4] = function`: called once, before the pretraining step that follows 4 steps."""
    from realm_train.tasks.pretrain import PretrainTask

    hooks, step = {}, PretrainTask.training_step

    def training_step(self, batch, batch_idx):
        hooks.pop(self.trainer.global_step, lambda: None)()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainTask, "training_step", training_step)
    return hooks


@pytest.fixture
def opened(monkeypatch) -> Callable[[], None]:
    """Waits until the version that is being opened beside training is open."""
    from realm_train.callbacks import refresh

    class Watched(refresh.Loading):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            Watched.last = self

    monkeypatch.setattr(refresh, "Loading", Watched)
    return lambda: Watched.last.result()


@pytest.fixture
def ends_in_one_line(monkeypatch, capsys) -> Callable[..., str]:
    """`ends_in_one_line(main, "run=…", …)`: what a command says on these words as it ends with exit code 2."""

    def ends_in_one_line(main: Callable[[], None], *words: str) -> str:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # so that what the command sets ends with the test
        monkeypatch.setattr(sys, "argv", ["command", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        lines = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]

    return ends_in_one_line


@pytest.fixture
def refused(overrides, tmp_path, ends_in_one_line) -> Callable[..., str]:
    """`refused("k=0", …)`: the one line that this small run ends with."""
    from realm_train.train import main

    return lambda *words, run="run": ends_in_one_line(main, f"run={tmp_path / run}", *overrides, *words)


def events(run: Path, stage: str | None = None) -> list[dict]:
    """The lines of metrics.jsonl, of one stage or of all."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if stage in (None, event["stage"])]


def facts(run: Path, stage: str) -> list[dict]:
    """The events of a stage without what a clock measured, in the order of their steps."""
    clocks = ("time", "throughput/tokens_per_second", "index/refresh_seconds", "index/swap_seconds")
    lasting = [{name: value for name, value in event.items() if name not in clocks} for event in events(run, stage)]
    return sorted(lasting, key=lambda event: (event["step"], sorted(event)))


def weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    """The model of a stage's last checkpoint."""
    from realm_train.checkpoints import last_checkpoint

    return torch.load(last_checkpoint(run, stage), map_location="cpu", weights_only=False)["state_dict"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def series(run: Path, stage: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every event that holds the metric."""
    return [(event["step"], event[metric]) for event in events(run, stage) if metric in event]
