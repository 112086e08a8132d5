"""A user's own documents as JSON lines: a file, a folder or a glob, compressed or not."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from data_prep.compressed import opened
from data_prep.sources import Document, Source
from data_prep.step import fingerprint
from realm_train.errors import BadInput

SUFFIXES = (".jsonl", ".json", ".ndjson")
COMPRESSED = ("", ".gz", ".bz2", ".xz")
ENDINGS = tuple(suffix + compressed for suffix in SUFFIXES for compressed in COMPRESSED)


class BadLine(Exception):
    """Why a line is no document: a reason to count it by, and a sentence to show."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class Jsonl(Source):
    """One JSON object a line; `id`, `title`, `text` name its keys: `id: null` numbers lines, `title: null` is none.

    A line that is no document raises BadInput with file and line, or is counted with `on_error: skip`.
    """

    path: str
    id: str | None = "id"
    title: str | None = "title"
    text: str = "text"
    on_error: str = "stop"
    unit: ClassVar[str] = "bytes"

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise BadInput(f"source.on_error: got {self.on_error!r}, expected stop or skip")

    def _files(self) -> list[Path]:
        path = Path(self.path)
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.name.endswith(ENDINGS))
        else:
            files = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(self.path, recursive=True))
        if not files:
            wanted = f"files that end in {', '.join(SUFFIXES)} (or .gz)" if path.is_dir() else "a file, folder or glob"
            raise BadInput(f"{self.path}: got nothing to read there, expected {wanted}; give source.path=")
        return files

    def inputs(self) -> list[dict]:
        return [fingerprint(file) for file in self._files()]

    def __iter__(self) -> Iterator[Document]:
        files = self._files()
        self.total = sum(file.stat().st_size for file in files)
        before = 0
        for file in files:
            with opened(file) as (stream, raw):
                for number, line in enumerate(stream, start=1):
                    self.done = before + raw.tell()
                    document = self._document(line, file=file, number=number)
                    if document is not None:
                        yield document
            before += file.stat().st_size

    def _document(self, line: bytes, *, file: Path, number: int) -> Document | None:
        if not line.strip():
            return None
        try:
            row = parsed(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
            name = f"{file.name}:{number}" if self.id is None else str(self._value(row, self.id))
            title = "" if self.title is None else self._string(row, self.title)
            return Document(id=name, title=title, text=self._string(row, self.text))
        except BadLine as error:
            if self.on_error == "stop":
                raise BadInput(
                    f"{file}:{number}: {error}; mend the line, or leave such lines out with source.on_error=skip"
                ) from error
            self.skipped[error.reason] += 1
            return None

    def _value(self, row: dict, key: str):
        if key not in row:
            raise BadLine(
                "missing_column",
                f"no key {key!r}, got {', '.join(map(repr, row)) or 'none'}"
                " (name your keys with source.id=, source.title=, source.text=)",
            )
        return row[key]

    def _string(self, row: dict, key: str) -> str:
        value = self._value(row, key)
        if value is not None and not isinstance(value, str):
            raise BadLine("wrong_type", f"{key!r} is {type(value).__name__}, expected a string")
        return value or ""


def parsed(line: bytes) -> dict:
    """The JSON object of a line; raises BadLine."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadLine("invalid_utf8", f"invalid UTF-8 at byte {error.start + 1} of the line") from error
    except RecursionError as error:
        raise BadLine("malformed_json", "nested too deeply for JSON") from error
    except ValueError as error:
        raise BadLine("malformed_json", f"not JSON ({error}), expected one object a line") from error
    if not isinstance(row, dict):
        raise BadLine("not_an_object", f"got a JSON {type(row).__name__}, expected an object on every line")
    return row
