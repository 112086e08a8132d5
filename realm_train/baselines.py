"""The rows of an evaluation: a run, what it is held against, and other runs, all over one corpus."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from realm_train.checkpoints import last_checkpoint
from realm_train.errors import BadInput
from realm_train.tasks.bm25 import Bm25Retriever
from realm_train.tasks.judging import Judge
from realm_train.tasks.oracle import OraclePassages
from realm_train.tasks.systems import GuessClosedBook, ReadOracle, RetrieveAndRead, System
from realm_train.trained import Trained, open_trained

SEARCHED = 1_000_000  # passages of a corpus that is searched for answers as a whole: a larger one would take hours
DEEP = 1000  # passages of each question that are searched in a larger one


@dataclass(frozen=True)
class Row:
    """A system with its name, how it reads, and the file name of its predictions."""

    key: str
    name: str
    note: str
    system: System


class Unavailable(BadInput):
    """A baseline that this run cannot have; the message says why."""


def own_row(trained: Trained, *, read: int | None = None) -> Row:
    """The run itself, reading the `read` best passages (None: as many as it was trained with)."""
    answerer = trained.answerer(read)
    name = f"{trained.run.resolve().name}, {trained.stage}"
    reads = (
        f"reads the {answerer.depth} best passages, spans scored by reader and p(z|x)" if answerer else "retrieves only"
    )
    note = f"the run as of step {trained.step} of the stage {trained.stage}; {reads}"
    return Row("run", name, note, RetrieveAndRead(trained.retriever(name=name), answerer))


class Baselines:
    """Makes the rows that a run is held against; a maker raises BadInput where there can be no such row."""

    def __init__(
        self, trained: Trained, judge: Judge, own: Row, *, ict: str | None = None, read: int | None = None
    ) -> None:
        self.trained, self.judge, self.own, self.ict = trained, judge, own, ict
        self.answerer = trained.answerer(read)
        self.reads = "; read by the run's own reader" if self.answerer else ""

    def rows(self, names: Sequence[str]) -> tuple[list[Row], dict[str, str]]:
        """The rows that can be had, and why the others cannot."""
        unknown = set(names) - set(MAKERS)
        if unknown:
            raise BadInput(f"baselines: got {sorted(unknown)}, expected some of {', '.join(MAKERS)}")
        rows, missing = [], {}
        for name in names:
            try:
                rows.append(MAKERS[name](self))
            except BadInput as reason:
                if name == "ict" and self.ict is not None:  # it was asked for by name
                    raise
                missing[name] = str(reason)
        return rows, missing

    def bm25(self) -> Row:
        """Words instead of vectors."""
        if find_spec("bm25s") is None:
            raise Unavailable("the package bm25s is not installed; pip install bm25s")
        system = RetrieveAndRead(Bm25Retriever(self.trained.corpus), self.answerer, uniform=True)
        prior = f"{self.reads}, to which all passages that it reads are equally likely" if self.reads else ""
        return Row("bm25", "BM25", f"BM25 over title and text{prior}", system)

    def closed_book(self) -> Row:
        """Nothing retrieved."""
        for trained in (self.trained, *self._before("pretrain", "mlm")):
            if (closed_book := trained.closed_book()) is not None:
                note = f"the masked language model of the stage {trained.stage} alone, with the null passage"
                return Row("closed_book", "closed book", note, GuessClosedBook(closed_book))
        raise Unavailable("neither the run nor those that it was trained from have a masked language model")

    def before_fine_tuning(self) -> Row:
        """The retriever as pretraining left it."""
        if self.trained.stage != "open_qa":
            raise Unavailable("the run was not fine-tuned")
        return self._retriever("pretrain", "pretrain", "before fine-tuning")

    def ict_only(self) -> Row:
        """The retriever as the inverse cloze task left it."""
        if self.trained.stage == "ict" and self.ict is None:
            raise Unavailable("it is the run itself")
        return self._retriever("ict", "ict", "ICT only")

    def _retriever(self, stage: str, key: str, name: str) -> Row:
        found = next(self._before(stage), None)
        if found is None:
            raise Unavailable(
                f"neither the run nor those that it was trained from have a checkpoint of the stage {stage}"
            )
        note = f"the retriever as of step {found.step} of the stage {stage}, its own p(z|x){self.reads}"
        return Row(key, name, note, RetrieveAndRead(found.retriever(name=name), self.answerer))

    def _before(self, *stages: str):
        """Of the run and those that it was trained from, each stage of these that has a checkpoint, latest first."""
        named = self.ict is not None and stages == ("ict",)
        for run in [Path(self.ict)] if named else lineage(self.trained.run):
            for stage in stages:
                if last_checkpoint(run, stage, required=named) is not None:
                    yield opened(run, self.trained, stage=stage)

    def oracle(self) -> Row:
        """The best-ranked passage of those that hold an answer."""
        everywhere = self.trained.corpus.count <= SEARCHED
        oracle = OraclePassages(
            self.own.system.retriever,
            self.trained.corpus,
            self.judge.holds,
            depth=100 if everywhere else DEEP,
            everywhere=everywhere,
        )
        note = (
            f"of {'all passages of the corpus' if everywhere else f'the {DEEP:,} best passages'} that hold an answer,"
            f" the one that the run ranks best{self.reads}; its R@1 is the share of questions that have one"
        )
        return Row("oracle", "oracle passage", note, ReadOracle(oracle, self.answerer))


MAKERS: dict[str, Callable[[Baselines], Row]] = {
    "bm25": Baselines.bm25,
    "closed_book": Baselines.closed_book,
    "ict": Baselines.ict_only,
    "pretrain": Baselines.before_fine_tuning,
    "oracle": Baselines.oracle,
}


def other_rows(runs: Sequence[str], trained: Trained, *, read: int | None = None) -> list[Row]:
    """Other runs over the same corpus, each with its own retriever and reader."""
    rows: list[Row] = []
    for run in runs:
        row = own_row(opened(Path(run), trained), read=read)
        key = f"versus-{re.sub(r'[^A-Za-z0-9_-]+', '-', Path(run).resolve().name)}"
        again = sum(one.key.startswith(key) for one in rows)
        rows.append(Row(f"{key}-{again + 1}" if again else key, row.name, row.note, row.system))
    return rows


def opened(run: Path, like: Trained, *, stage: str | None = None) -> Trained:
    """A run, on the corpus and the device of another one."""
    if run.resolve() == like.run.resolve() and stage == like.stage:
        return like
    return open_trained(run, stage=stage, corpus=like.corpus.folder, device=like.device, sharing=like)


def lineage(run: Path) -> list[Path]:
    """A run, the one that it was trained from, and so on; those that are gone are left out."""
    runs: list[Path] = []
    while run not in runs and (run / "config.yaml").exists():
        runs.append(run)
        source = source_of(OmegaConf.load(run / "config.yaml"))
        if source is None:
            break
        run = Path(source)
    return runs


def source_of(cfg: DictConfig) -> str | None:
    """The run whose weights a run has started from."""
    return cfg.get("ckpt") or cfg.get("retriever")
