"""A run folder read back: whatever of it is there, while it trains or after."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from realm_train.errors import BadInput

Number = float | int
SIGNS = ("config.yaml", "metrics.jsonl", "provenance.json")  # a folder with none of them is no run


@dataclass
class Run:
    """What one run wrote; `heldout` holds its evaluations of pretraining, oldest first."""

    folder: Path
    config: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    heldout: list[dict[str, Any]] = field(default_factory=list)
    manifests: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def finished(self) -> bool:
        """Whether pretraining ended and was evaluated afterwards, or fine-tuning ended."""
        stages = self.provenance.get("stages", {})
        if self.fine_tuning:
            return "open_qa" in stages
        steps = stages.get("pretrain", {}).get("steps")
        return steps is not None and len(self.heldout) > 1 and self.heldout[-1]["step"] >= steps

    @property
    def fine_tuning(self) -> bool:
        """Whether this is the fine-tuning of another run."""
        return any(event["stage"] == "open_qa" for event in self.events)

    @cached_property
    def _curves(self) -> dict[tuple[str, str], dict[int, Number]]:
        curves: dict[tuple[str, str], dict[int, Number]] = {}
        for event in self.events:
            for metric, value in event.items():
                if metric not in ("stage", "step", "time") and value is not None:
                    curves.setdefault((event["stage"], metric), {})[event["step"]] = value
        return curves

    def curve(self, stage: str, metric: str) -> list[tuple[int, Number]]:
        """(step, value) of one metric in order; where a step was logged twice, the later value."""
        return sorted(self._curves.get((stage, metric), {}).items())

    def adoptions(self) -> list[tuple[int, int]]:
        """(step, version) of every index that training went over to."""
        seen: dict[int, int] = {}
        for step, version in self.curve("pretrain", "index/version"):
            seen.setdefault(int(version), step)
        return sorted((step, version) for version, step in seen.items())


def read_run(folder: str | Path) -> Run:
    """Reads a run folder; raises BadInput if it is none, or if a file in it is broken."""
    folder = Path(folder)
    if not any((folder / name).is_file() for name in SIGNS):
        raise BadInput(
            f"{folder}: got {'a folder' if folder.is_dir() else 'no folder'} without {', '.join(SIGNS)}, expected a"
            " run; make one with python -m realm_train.train experiment=quickstart"
        )
    config = folder / "config.yaml"
    provenance = folder / "provenance.json"
    return Run(
        folder=folder,
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        provenance=_json(provenance) if provenance.is_file() else {},
        events=_events(folder / "metrics.jsonl"),
        heldout=sorted(map(_json, folder.glob("heldout/pretrain-*.json")), key=lambda record: record["step"]),
        manifests=sorted(map(_json, folder.glob("index/v*/manifest.json")), key=lambda record: record["version"]),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); move it away to report what else there is") from error


def _events(path: Path) -> list[dict[str, Any]]:
    """The file's events; a last line that is still being written is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    events = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                events.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise BadInput(f"{path}, line {number}: got {line[:60]!r}, expected JSON; mend or move it") from error
    return events
