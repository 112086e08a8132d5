"""One run as one page: a self-contained HTML file that asks nothing of the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from realm_train.evaluation.figures import index, pretraining, warm_start
from realm_train.evaluation.run import Number, Run
from realm_train.evaluation.sentences import cards, signed
from realm_train.evaluation.style import STYLE
from realm_train.evaluation.summary import verdict


def page(run: Run, report: Mapping[str, Any]) -> str:
    """The whole page; `report` is the run's summary."""
    outcome, sentence = verdict(run)
    parts = [
        f'<p class="eyebrow">realm-train · run <code>{escape(run.name)}</code></p>',
        f'<h1 class="{outcome}">{escape(sentence)}</h1>',
        f'<p class="lead">{escape(lead(run, report))}</p>',
        f'<div class="tiles">{"".join(tiles(report))}</div>',
        *pretraining(run),
        *examples(run),
        *index(run),
        *warm_start(run),
        *origin(run, report),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(run.name)} · realm-train</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{"".join(parts)}</main></body></html>\n'


def lead(run: Run, report: Mapping[str, Any]) -> str:
    """What was done, in two sentences of numbers."""
    realm, stages = report["realm"], run.provenance.get("stages", {})
    steps = [f"{stages[name]['steps']} steps of {word}" for name, word in _STAGES.items() if name in stages]
    words = [f"{' and '.join(steps)} in {duration(report['seconds'].get('total', 0))}." if steps else "Still training."]
    words[0] = words[0][0].upper() + words[0][1:]
    if "sentences" in realm:
        words.append(
            f"Judged on {realm['sentences']} sentences of documents that were held out of training, the same before and"
            " after; a sentence's own passage, and near copies of it, can never be retrieved."
        )
    return " ".join(words)


_STAGES = {"ict": "inverse cloze warm start", "pretrain": "pretraining"}


def tiles(report: Mapping[str, Any]) -> Iterator[str]:
    """The key numbers, those that the run has."""
    ict, realm, index = report["ict"], report["realm"], report["index"]
    if "utility_end" in realm:
        error = realm.get("utility_end_error")
        help = f"nats a word piece{f', ± {error:.1g}' if error else ''}; before: {signed(realm['utility_start'])}"
        good = "good" if report["verdict"] == "learnt" else "bad" if report["verdict"] == "nothing" else ""
        yield tile(signed(realm["utility_end"]), "retrieval utility", help, good)
        yield tile(arrow(realm["loss_start"], realm["loss_end"]), "held-out loss", "with retrieval, before → after")
        yield tile(f"{realm['loss_null_end']:.2f}", "held-out loss, no passages", "the same reader after training")
        yield tile(
            f"{realm['p_null_end']:.0%}", "p(null)", f"share of the empty passage; before: {realm['p_null_start']:.0%}"
        )
    recall = realm.get("recall@5", {})
    if recall.get("end") is not None:
        exact = index.get("recall", 1.0)
        how = "" if exact == 1.0 else f"; the search found {exact:.0%} of what exact search finds"
        yield tile(
            arrow(recall["start"], recall["end"], "%"),
            "answer in the top 5",
            f"held-out sentences, before → after{how}",
        )
    if "accuracy" in ict:
        yield tile(f"{ict['accuracy']:.0%}", "ICT accuracy", f"warm start, {ict['accuracy_on']}")
    if "leaks" in realm:
        yield tile(
            str(realm["leaks"]), "leaks", "own passages given away; must be 0", "bad" if realm["leaks"] else "good"
        )
    if index["versions"]:
        yield tile(str(index["versions"]), "index versions", f"oldest in use: {index.get('max_age_steps', 0)} steps")
    if report["seconds"].get("total"):
        spent = ", ".join(f"{name} {duration(s)}" for name, s in report["seconds"].items() if name != "total")
        yield tile(duration(report["seconds"]["total"]), "wall clock", spent)


def tile(value: str, name: str, help: str, tone: str = "") -> str:
    """One key number."""
    return f'<div class="tile {tone}"><b>{value}</b><span>{escape(name)}</span><i>{escape(help)}</i></div>'


def arrow(start: Number, end: Number, unit: str = "") -> str:
    """before → after."""
    form = "{:.0%}" if unit == "%" else "{:.2f}"
    return f"<small>{form.format(start)} →</small> {form.format(end)}"


def examples(run: Run) -> Iterator[str]:
    """The held-out sentences that every evaluation shows."""
    if not run.heldout or not run.heldout[0].get("examples"):
        return
    before, after = run.heldout[0], run.heldout[-1] if len(run.heldout) > 1 else None
    count = len(before["examples"])
    yield (
        f"<h2>{count} held-out sentences{', before and after' if after else ''}</h2>"
        "<p>The first ones of the held-out documents, not chosen. Each is shown with the passages that were looked up"
        " for its hidden words; open one to read it.</p>"
        f'<p class="key"><span>{swatch(1, 8)}p(z|x): what the retriever expects to help</span>'
        f"<span>{swatch(2, 4)}p(z|x,y): what did help, once the answer is known</span>"
        '<span><span class="tick-mark">✓</span>holds the answer</span>'
        "<span>nats: log-probability gained over the empty passage</span></p>"
    )
    yield cards(before, after)


def swatch(colour: int, height: int) -> str:
    """A bar of the legend."""
    return f'<span class="swatch" style="background:var(--c{colour});height:{height}px"></span>'


def origin(run: Run, report: Mapping[str, Any]) -> Iterator[str]:
    """Where the run comes from: everything needed to make it again."""
    provenance = dict(run.provenance)
    data, versions, hardware = (provenance.pop(name, None) or {} for name in ("data", "versions", "hardware"))
    provenance.pop("stages", None)
    yield "<h2>Where this comes from</h2><p>What is needed to make it again.</p>"
    yield table({"command": provenance.pop("command", None), "commit": _commit(report), **hardware})
    folds = {
        "Data: what was read, kept and skipped": table(flat(data)),
        "Versions": table(versions),
        "Seconds by stage": table(report["seconds"]),
        "Everything in report.json": table(
            flat({k: report[k] for k in ("ict", "realm", "open_qa", "index") if k in report})
        ),
        "Configuration": f"<pre>{escape(run.config)}</pre>" if run.config else "",
        "More": table(flat(provenance)),
    }
    for name, inside in folds.items():
        if inside:
            yield f'<details class="fold"><summary>{escape(name)}</summary>{inside}</details>'
    yield f"<footer>Made with <code>python -m realm_train.report run={escape(str(run.folder))}</code></footer>"


def _commit(report: Mapping[str, Any]) -> str | None:
    dirty = " with changes that are not committed" if report["dirty"] else ""
    return f"{report['commit']}{dirty}" if report["commit"] else None


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name."""
    rows: dict[str, Any] = {}
    for name, value in values.items():
        rows |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return rows


def table(rows: Mapping[str, Any]) -> str:
    """Names and values, without those that are missing or empty."""
    shown = {name: value for name, value in rows.items() if value is not None and value != "" and value != []}
    cells = (f"<tr><td>{escape(str(name))}</td><td>{escape(said(value))}</td></tr>" for name, value in shown.items())
    return f"<table>{''.join(cells)}</table>" if shown else ""


def said(value: Any) -> str:
    """A value as a person writes it."""
    if isinstance(value, float):
        return f"{value:.5g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def duration(seconds: Number) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
