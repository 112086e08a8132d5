"""What a benchmark is told and what it says: `key=value` words in, JSON lines out, the first about the machine."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from realm_train.callbacks.provenance import hardware, versions


def settings(**defaults: Any) -> dict[str, Any]:
    """The defaults with the command line's words over them, each of its default's type; lists are `1,2`."""
    words = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if unknown := sorted(words.keys() - defaults.keys()):
        sys.exit(f"error: got {', '.join(unknown)}, expected some of {', '.join(defaults)}, as key=value")
    return {name: _as(default, words[name]) if name in words else default for name, default in defaults.items()}


def _as(default: Any, word: str) -> Any:
    if isinstance(default, list):
        return [type(default[0])(part) for part in word.split(",")]
    return type(default)(word)


class Report:
    """Figures, printed as they come; the setting `out` names a file that gets them all in the end. The versions of
    `packages` are told beside those that every run notes."""

    def __init__(self, benchmark: str, told: dict[str, Any], *, packages: tuple[str, ...] = ()) -> None:
        self.out, self.lines = told.get("out"), []
        found = versions() | {package: metadata.version(package) for package in packages}
        self.say(benchmark=benchmark, settings=told, hardware=hardware(), versions=found)

    def say(self, **figures: Any) -> None:
        """One line."""
        self.lines.append(figures)
        print(json.dumps(figures), flush=True)

    def write(self) -> None:
        """All lines into the file, one below the other."""
        if self.out:
            Path(self.out).write_text("".join(f"{json.dumps(line)}\n" for line in self.lines), encoding="utf-8")
