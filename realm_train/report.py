"""`python -m realm_train.report runs/<name>`: what a run learnt, as numbers and as a page to show around."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from realm_train.command import command
from realm_train.errors import BadInput
from realm_train.evaluation.comparison import compare, markdown, scalars, short, spread
from realm_train.evaluation.page import page
from realm_train.evaluation.run import read_run
from realm_train.evaluation.summary import summarise, verdict


@command("report")
def main(cfg: DictConfig) -> None:
    """Report one run, or compare several."""
    folders = [Path(folder) for folder in [*([cfg.run] if cfg.run else []), *cfg.runs]]
    if not folders:
        raise BadInput("got no run to report, expected run=runs/<name> or several folders")
    if len(folders) == 1:
        write_report(folders[0], console=Console())
    else:
        write_comparison(folders, out=Path(cfg.out) if cfg.out else None, console=Console())


def write_report(folder: Path, *, console: Console) -> dict[str, Any]:
    """Write `report.json` and `report.html` into the run's folder, and return the former."""
    run = read_run(folder)
    report = summarise(run)
    write(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write(folder / "report.html", page(run, report))
    console.print(verdict(run)[1], style="bold", markup=False, highlight=False)
    shown = [name for name in ("ict", "realm", "open_qa", "index", "seconds") if name in report]
    for name, value in scalars({name: report[name] for name in shown}).items():
        console.print(f"  {name:<28} {short(value)}", markup=False, highlight=False)
    console.print(f"{folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)
    return report


def write_comparison(folders: Sequence[Path], *, out: Path | None, console: Console) -> dict[str, dict[str, Any]]:
    """Print the scalars of several runs with mean ± sd, and write them into `out` where it is given."""
    reports = [summarise(read_run(folder)) for folder in folders]
    names, rows = [report["run"] for report in reports], compare(reports)
    shown = Table("", *names, "mean ± sd")
    for name, row in rows.items():
        shown.add_row(name, *map(short, row["values"]), spread(row["mean"], row["sd"]))
    console.print(shown)
    if out is not None:
        record = {"runs": [str(folder) for folder in folders], "scalars": rows}
        write(out / "comparison.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        write(out / "comparison.md", markdown(names, rows))
        console.print(f"{out / 'comparison.md'}", markup=False, highlight=False, soft_wrap=True)
    return rows


def write(path: Path, text: str) -> None:
    """Write a file aside and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


if __name__ == "__main__":
    main()
