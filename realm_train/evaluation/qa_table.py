"""The record of an evaluation as tables to read: results, differences from the first system, calibration, leakage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from realm_train.evaluation.question_overlap import PARTS

COLUMNS = {
    "qa/exact_match": "EM",
    "qa/f1": "F1",
    "qa/recall@1": "R@1",
    "qa/recall@5": "R@5",
    "qa/recall@20": "R@20",
    "qa/recall@100": "R@100",
}


@dataclass(frozen=True)
class Sheet:
    """A table; under a figure in its cell stand its interval and its p-value. Notes stand under the table."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def sheets(record: Mapping[str, Any]) -> list[Sheet]:
    """All tables of an evaluation, without those that would be empty."""
    made = [results(record), differences(record), calibrated(record), overlap(record), drawn(record)]
    return [sheet for sheet in made if sheet is not None]


def markdown(record: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    return "\n".join(_markdown(sheet) for sheet in sheets(record))


def _markdown(sheet: Sheet) -> str:
    lines = [f"## {sheet.title}", ""]
    if sheet.rows:
        marks = ["---", *["---:"] * (len(sheet.header) - 1)]
        lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in (sheet.header, marks, *sheet.rows)]
        lines.append("")
    lines += [f"- {_escaped(note)}" for note in sheet.notes] + [""] * bool(sheet.notes)
    return "\n".join(lines)


def _escaped(cell: str) -> str:
    return cell.replace("\n", " ").replace("|", "\\|")


def results(record: Mapping[str, Any]) -> Sheet:
    """Every metric of every system with its interval."""
    systems = record["systems"]
    metrics = _metrics(systems)
    rows = tuple(
        (
            _marked(system, number),
            *(_with_interval(system["metrics"].get(metric)) for metric in metrics),
            search(system["index/recall"]),
        )
        for number, system in enumerate(systems.values(), start=1)
    )
    notes = [f"{number}: {system['note']}" for number, system in enumerate(systems.values(), start=1)]
    notes += [f"no {name}: {reason}" for name, reason in record["missing"].items()]
    notes += [
        f"Per cent of {record['count']:,} questions, with 95% bootstrap intervals over them; R@k: one of the k best"
        f" passages holds an answer; {record['matching']['what']}.",
        "search: how much of what exact search finds the system's search finds. R@k is what was really found, and of an"
        " exact search only where that says exact.",
    ]
    return Sheet(f"{record['run']} on {record['questions']}", ("", *_names(metrics), "search"), rows, tuple(notes))


def search(recall: float | None) -> str:
    """How exact a search is, in a word; `exact` is only said of 1."""
    if recall is None:
        return "–"
    return "exact" if recall == 1 else f"{min(recall, 0.9999):.2%}"


def differences(record: Mapping[str, Any]) -> Sheet | None:
    """Every system against the first."""
    first, *others = record["systems"].values()
    metrics = [metric for metric in _metrics(record["systems"]) if metric in first["metrics"]]
    if not others:
        return None
    rows = tuple(
        (system["name"], *(_with_p(system["metrics"].get(metric, {}).get("difference")) for metric in metrics))
        for system in others
    )
    note = (
        f"Percentage points; paired bootstrap over the same questions, {record['bootstrap']['draws']:,} resamples, 95%"
        " interval and two-sided p-value, not corrected for the number of comparisons."
    )
    return Sheet(f"Difference from {first['name']}", ("", *_names(metrics)), rows, (note,))


def calibrated(record: Mapping[str, Any]) -> Sheet | None:
    """Whether p(z|x) can be believed."""
    rows = []
    for system in record["systems"].values():
        found = system.get("calibration")
        if found:
            cells = [_percents(found[what]) for what in ("best", "null") if what in found]
            rows.append((system["name"], *(cell for three in cells for cell in three), *["–"] * (6 - 3 * len(cells))))
    if not rows:
        return None
    header = ("", "p(best)", "holds", "error", "p(null)", "none holds", "error")
    note = (
        f"p(z|x) is over the null passage and the {record['k']} best. p(best): mean of the best passage's, against how"
        " often that holds an answer; p(null): against how often none of them does; error: expected calibration error,"
        " 10 bins, which are in evaluation.json."
    )
    return Sheet("Calibration of p(z|x)", header, tuple(rows), (note,))


def overlap(record: Mapping[str, Any]) -> Sheet | None:
    """The parts of the questions by what of them was in training."""
    found = record["leakage"]["questions"]
    if "parts" not in found:
        return Sheet("Questions seen in training", (), (), (found["unknown"],))
    rows = []
    for part in PARTS:
        inside = found["parts"][part]
        cells = [_percent(inside["systems"].get(key)) for key in record["systems"]]
        rows.append((part, f"{inside['count']:,}", *cells))
    metric = COLUMNS[found["metric"]]
    names = [system["name"] for system in record["systems"].values()]
    note = (
        f"{metric} in each part (Lewis et al. 2020); question overlap: a training question is equal once normalised, or"
        f" its words have a Jaccard similarity of at least {found['threshold']:g}; {found['train']:,} training"
        " questions."
    )
    return Sheet("Questions seen in training", ("", "questions", *names), tuple(rows), (note,))


def drawn(record: Mapping[str, Any]) -> Sheet:
    """The questions whose answer sentence a stage was trained on."""
    found = record["leakage"]["sentences"]
    if "stages" not in found:
        return Sheet("Answer sentences seen in training", (), (), (found["unknown"],))
    rows = [(f"drawn by {name}", f"{one['questions']:,}", f"{one['draws']:,}") for name, one in found["stages"].items()]
    rows.append(("drawn by any", f"{found['drawn']['count']:,}", "–"))
    metric = COLUMNS[found["metric"]]
    notes = [
        f"Of {found['with_sentence']:,} questions with a sentence that holds an answer among the {record['k']} best"
        " passages of the first system; a stage drew the sentence if one of its examples is made of it.",
        f"{metric} where one was drawn: {_percent(found['drawn']['mean'])}; where there is one and none was drawn:"
        f" {_percent(found['not_drawn']['mean'])} ({found['not_drawn']['count']:,} questions).",
        *(f"not known of {name}: {reason}" for name, reason in found["unknown_stages"].items()),
    ]
    return Sheet("Answer sentences seen in training", ("", "questions", "examples"), tuple(rows), tuple(notes))


def _metrics(systems: Mapping[str, Any]) -> list[str]:
    return [metric for metric in COLUMNS if any(metric in system["metrics"] for system in systems.values())]


def _names(metrics: Sequence[str]) -> list[str]:
    return [COLUMNS[metric] for metric in metrics]


def _marked(system: Mapping[str, Any], number: int) -> str:
    return f"{system['name']} ({number})"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _percents(found: Mapping[str, Any]) -> tuple[str, str, str]:
    return _percent(found["mean_p"]), _percent(found["observed"]), _percent(found["error"])


def _with_interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{_percent(found['mean'])}\n({_percent(found['low'])}–{_percent(found['high'])})"


def _with_p(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    mean, low, high = (f"{100 * found[name]:+.1f}" for name in ("mean", "low", "high"))
    p = "< 0.001" if found["p"] < 0.001 else f"= {found['p']:.3f}"
    return f"{mean}\n({low} to {high})\np {p}"
