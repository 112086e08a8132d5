"""`python -m realm_train.evaluate run=… questions=…`: what a run finds and answers, beside what it must be held
against."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from realm_train.baselines import Baselines, Row, other_rows, own_row
from realm_train.command import command
from realm_train.data.questions import Question, read_questions
from realm_train.errors import BadInput
from realm_train.evaluation.bootstrap import Resamples
from realm_train.evaluation.qa_metrics import Measures, calibration, reading_measures, retrieval_measures, summarise
from realm_train.evaluation.qa_table import Sheet, markdown, sheets
from realm_train.leakage import seen_questions, seen_sentences, training_questions
from realm_train.report import write
from realm_train.tasks.judging import Judge, Judged
from realm_train.trained import open_trained

WIDE = 120  # characters of a line where the output is no terminal


@command("evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluates a run on questions; see conf/evaluate.yaml."""
    check(cfg)
    questions = read_questions(cfg.questions, regex=cfg.regex, name=cfg.name, split=cfg.split, limit=cfg.limit)
    trained = open_trained(cfg.run, stage=cfg.stage, corpus=cfg.corpus, device=cfg.device, threads=cfg.threads)
    train = training_questions(cfg.train, trained, cfg.questions)
    judge = Judge(trained.corpus, cfg.matching)
    own = own_row(trained, read=cfg.read)
    baselines, missing = Baselines(trained, judge, own, ict=cfg.ict, read=cfg.read).rows(cfg.baselines)
    rows = [own, *other_rows(cfg.versus, trained, read=cfg.read), *baselines]
    k = min(cfg.k, trained.corpus.count)
    judged = {row.key: answer(row, questions, judge, k=k, batch_size=cfg.batch_size) for row in rows}
    measures = {row.key: measured(judged[row.key], k=cfg.k if row.system.retrieves else 0) for row in rows}
    record = {
        "run": own.name,
        "questions": questions_name(cfg),
        "count": len(questions),
        "unanswerable": sum(not question.answers for question in questions),
        "sha256": questions_hash(questions),
        "corpus": trained.corpus.hash,
        "k": k,
        "matching": {"how": cfg.matching, "what": matching_note(cfg.matching, questions)},
        "bootstrap": {"draws": cfg.resamples, "seed": cfg.seed},
        "systems": summaries(rows, judged, measures, Resamples(len(questions), draws=cfg.resamples, seed=cfg.seed)),
        "missing": missing,
        "leakage": {
            "questions": seen_questions(train, questions, measures, threshold=cfg.similar),
            "sentences": seen_sentences(trained, judge, judged[own.key], measures[own.key]),
        },
    }
    out = Path(cfg.out) if cfg.out else trained.run / "evaluation" / folder_name(cfg)
    save(out, record, judged, judge, shown=cfg.shown)
    show(record, out, Console() if sys.stdout.isatty() else Console(width=WIDE))


def check(cfg: DictConfig) -> None:
    """Raises BadInput for what cannot be, before anything is loaded."""
    for name in ("k", "batch_size", "resamples", "read", "limit"):
        if cfg[name] is not None and cfg[name] < 1:
            raise BadInput(f"{name}: got {cfg[name]}, expected at least 1")


def answer(row: Row, questions: Sequence[Question], judge: Judge, *, k: int, batch_size: int) -> list[Judged]:
    """The system's replies to all questions, judged; a bar on stderr says how long it takes."""
    judged: list[Judged] = []
    with bar(row.name, len(questions)) as advance:
        for start in range(0, len(questions), batch_size):
            batch = questions[start : start + batch_size]
            judged += [judge(question, reply) for question, reply in zip(batch, row.system(batch, k), strict=True)]
            advance(len(batch))
    return judged


@contextmanager
def bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr with the time that is left; call what it yields with the questions done."""
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        number = progress.add_task(name, total=total)
        yield lambda count: progress.advance(number, count)


def measured(judged: Sequence[Judged], *, k: int) -> Measures:
    """A value for every question of every metric that the system has; `k` is 0 for one that does not retrieve."""
    read = [one for one in judged if one.exact is not None]
    measures = reading_measures([one.exact for one in read], [one.f1 for one in read]) if read else {}
    return measures | retrieval_measures([one.hits for one in judged], k=k)


def summaries(
    rows: Sequence[Row], judged: Mapping[str, Sequence[Judged]], measures: Mapping[str, Measures], resamples: Resamples
) -> dict[str, dict[str, Any]]:
    """What the record says of each system."""
    metrics = summarise(measures, resamples)
    found = {}
    for row in rows:
        calibrated = reliabilities(judged[row.key])
        found[row.key] = {
            "name": row.name,
            "note": row.note,
            "index/recall": row.system.recall,
            "metrics": metrics[row.key],
            **({"calibration": calibrated} if calibrated else {}),
        }
    return found


def reliabilities(judged: Sequence[Judged]) -> dict[str, Any]:
    """Calibration of the best passage's p(z|x), and of p(null); empty for a system without p(z|x)."""
    found = {}
    best = [(one.reply.p[0], one.hits[0]) for one in judged if one.reply.p]
    if best:
        found["best"] = calibration(*(np.array(column) for column in zip(*best, strict=True)))
    null = [(one.reply.p_null, not any(one.hits)) for one in judged if one.reply.p_null is not None]
    if null:
        found["null"] = calibration(*(np.array(column) for column in zip(*null, strict=True)))
    return found


def questions_name(cfg: DictConfig) -> str:
    """What the questions are called: their file or folder, and the split."""
    name = Path(str(cfg.questions).rstrip("/")).name.removesuffix(".gz")
    if Path(cfg.questions).is_file():
        name = name.rpartition(".")[0] or name
    split = cfg.split or ("dev" if Path(cfg.questions).is_dir() else None)
    return "-".join(filter(None, [name, split]))


def folder_name(cfg: DictConfig) -> str:
    """A folder for these questions; another one for a part of them, or for a stage that is not the last."""
    part = f"first{cfg.limit}" if cfg.limit else None
    return "-".join(filter(None, [questions_name(cfg), cfg.stage, part]))


def questions_hash(questions: Sequence[Question]) -> str:
    """SHA-256 of the questions and answers that were asked."""
    rows = json.dumps([question.row() for question in questions], ensure_ascii=False)
    return hashlib.sha256(rows.encode()).hexdigest()


MATCHING = {
    "tokens": "an answer is held where its tokens stand in one piece, whatever the case, NFD (as DPR)",
    "substring": "an answer is held where its characters stand, case-sensitive (as ORQA)",
    "regex": "an answer is a pattern that is searched for, whatever the case (as DPR for CuratedTREC)",
}


def matching_note(how: str, questions: Sequence[Question]) -> str:
    """Which definition of a held answer and of an exact match was used."""
    patterns = sum(question.regex for question in questions)
    note = f"matching {how}: {MATCHING[how]}; EM and F1 after SQuAD's normalisation and NFD"
    if patterns:
        note += (
            f"; {patterns:,} questions have patterns as answers: matching regex for these, EM and F1 are whether the"
            " prediction begins with one (as ORQA)"
        )
    return note


def save(
    out: Path, record: Mapping[str, Any], judged: Mapping[str, Sequence[Judged]], judge: Judge, *, shown: int
) -> None:
    """Writes predictions, table and record, each aside and renamed."""
    for key, replies in judged.items():
        lines = (json.dumps(judge.line(one, shown), ensure_ascii=False, allow_nan=False) + "\n" for one in replies)
        write(out / f"predictions-{key}.jsonl", "".join(lines))
    write(out / "table.md", markdown(record))
    write(out / "evaluation.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def show(record: Mapping[str, Any], out: Path, console: Console) -> None:
    """Prints the tables."""
    for sheet in sheets(record):
        console.print(on_screen(sheet))
        for note in sheet.notes:
            console.print(note, style="dim", markup=False, highlight=False)
        console.print()
    console.print(f"{out / 'evaluation.json'}", markup=False, highlight=False, soft_wrap=True)


def on_screen(sheet: Sheet) -> Table:
    """A table for the terminal."""
    table = Table(title=sheet.title, title_justify="left", show_header=bool(sheet.rows), show_lines=False)
    for number, name in enumerate(sheet.header):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in sheet.rows:
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
