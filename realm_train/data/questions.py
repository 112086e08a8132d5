"""Questions with their accepted answers, from every format that the field keeps them in.

.jsonl               an object a line: `question`, `answers` or `answer` (a string or a list), `id`, `regex` (NQ-open)
.json                the same, or DPR's list of such objects
.tsv .csv            question and answers (a list as Python or JSON writes it, or one answer), with or without a header
a folder             made by data_prep.questions, saved by `datasets`, or with its Parquet files
.parquet, hub names  columns `question`, `answers` or `answer`; also TriviaQA's and SQuAD's objects for an answer

Text files may be compressed with gzip.
"""

from __future__ import annotations

import ast
import csv
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from realm_train.data.corpus import read_manifest
from realm_train.errors import BadInput

ANSWERS = ("answers", "answer")
IDS = ("id", "question_id")
HELD_OUT = ("dev", "validation", "test", "train")  # the split that is read where none is asked for: the first there is
Row = tuple[str, Mapping[str, Any]]  # where it stands, and what it says


@dataclass(frozen=True)
class Question:
    """A question and all that counts as its answer: strings, or patterns where `regex` is set."""

    text: str
    answers: tuple[str, ...]
    regex: bool = False
    id: str = ""

    def row(self) -> dict[str, Any]:
        """What a line of a JSONL file says of it; `read_questions` gives the same question back."""
        row = {"id": self.id, "question": self.text, "answers": list(self.answers)}
        return row | ({"regex": True} if self.regex else {})


def read_questions(
    path: str | Path,
    *,
    regex: bool = False,
    name: str | None = None,
    split: str | None = None,
    limit: int | None = None,
) -> list[Question]:
    """The questions of a file, a folder or a data set of the hub, the first `limit` of them.

    `regex` makes patterns of all answers (CuratedTREC); `name` is a data set's configuration, `split` names a split
    where there are several. Answers are stripped, and given once each; blank ones are left out. Raises BadInput with
    file and line for what is no question, and where there is none.
    """
    questions = [to_question(row, where=where, regex=regex) for where, row in islice(rows(path, name, split), limit)]
    if not questions:
        raise BadInput(f"{path}: got no question, expected at least one")
    return questions


def rows(path: str | Path, name: str | None, split: str | None) -> Iterator[Row]:
    """The rows of whatever `path` is."""
    place = Path(path)
    if place.is_dir() and (place / "manifest.json").exists():
        place = split_file(place, split)
    kind = place.name.removesuffix(".gz").rpartition(".")[2]
    if place.is_file() and kind in TEXT_FORMATS:
        return TEXT_FORMATS[kind](place)
    if place.is_file() and kind != "parquet":
        raise BadInput(f"{place}: got a file .{kind}, expected one of .{', .'.join(TEXT_FORMATS)}, .parquet")
    if not place.exists() and (kind in (*TEXT_FORMATS, "parquet") or place.is_absolute()):
        raise BadInput(f"{place}: not found; give a file, a folder, or the name of a data set of the hub")
    return ((f"{path}: row {number}", row) for number, row in enumerate(data_set(place, name, split)))


def split_file(folder: Path, split: str | None) -> Path:
    """The file of a split in a folder of data_prep.questions; `dev` where none is named."""
    read_manifest(folder, kind="questions", made_by="data_prep.questions")
    path = folder / f"{split or HELD_OUT[0]}.jsonl"
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.jsonl")))
        raise BadInput(f"{folder}: no split {path.stem}, there are: {there}; give one of them")
    return path


def data_set(path: Path, name: str | None, split: str | None) -> Iterable[Mapping[str, Any]]:
    """The rows of a data set of the `datasets` library: a Parquet file, a saved folder, or a name on the hub."""
    import datasets

    try:
        if path.is_file():
            loaded = datasets.load_dataset("parquet", data_files={"train": str(path)})
        elif (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            loaded = datasets.load_from_disk(str(path))
        else:
            loaded = datasets.load_dataset(str(path), name)
    except Exception as error:  # the library raises dozens of kinds, and each means that the data set cannot be had
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path}: cannot be loaded ({reason}); check the path, or the data set's name") from error
    if not isinstance(loaded, dict):
        return loaded
    chosen = split or next((one for one in HELD_OUT if one in loaded), "")
    if chosen not in loaded:
        raise BadInput(f"{path}: no split {chosen!r}, there are: {', '.join(loaded)}; give one of them")
    return loaded[chosen]


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, each with its place."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                if text := decoded(line, where).strip("\r\n\ufeff"):
                    yield where, text
    except (OSError, EOFError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); copy or download it again") from error


def decoded(line: bytes, where: str) -> str:
    """The text of a line; raises BadInput if it is no UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: invalid UTF-8 at byte {error.start + 1} of the line; save it as UTF-8") from error


def json_lines(path: Path) -> Iterator[Row]:
    """An object a line."""
    for where, line in lines(path):
        yield where, parsed(line, where)


def json_file(path: Path) -> Iterator[Row]:
    """One list of objects, or an object a line."""
    texts = list(lines(path))
    if not texts or not texts[0][1].lstrip().startswith("["):
        yield from ((where, parsed(text, where)) for where, text in texts)
        return
    found = parsed("\n".join(text for _, text in texts), str(path))
    yield from ((f"{path}: question {number}", row) for number, row in enumerate(found, start=1))


def parsed(text: str, where: str) -> Any:
    """The value of a JSON text; raises BadInput."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({error}); expected one object a line, or one list of objects") from error


def table(path: Path) -> Iterator[Row]:
    """DPR's tables, and any with a header; tabs or commas, whatever the first line has."""
    columns, delimiter = ("question", "answers"), None
    for number, (where, line) in enumerate(lines(path)):
        delimiter = delimiter or ("\t" if "\t" in line else ",")
        cells = split_cells(line, where, delimiter)
        if number == 0 and "question" in (header := tuple(cell.strip().lower() for cell in cells)):
            columns = header
            continue
        if len(cells) != len(columns):
            raise BadInput(
                f"{where}: got {len(cells)} columns, expected {', '.join(columns)}; put a cell with a separator or a"
                ' quote in it between "…", and write its quotes twice'
            )
        row = dict(zip(columns, cells, strict=True))
        yield where, row | {key: listed(row[key], where) for key in ANSWERS if key in row}


def split_cells(line: str, where: str, delimiter: str) -> list[str]:
    """The cells of a line; raises BadInput."""
    try:
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error as error:
        raise BadInput(f"{where}: cannot be read as a line of a table ({error}); mend it") from error


TEXT_FORMATS = {"jsonl": json_lines, "ndjson": json_lines, "json": json_file, "tsv": table, "csv": table}


def listed(cell: str, where: str) -> Any:
    """The list that a cell of a table writes, as JSON or as Python does, or else the cell as the only answer."""
    if not cell.lstrip().startswith("["):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            return read(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise BadInput(f'{where}: cannot read the answers {cell!r}; write them as ["…", "…"]')


def to_question(row: Any, *, where: str, regex: bool) -> Question:
    """The question of a row; raises BadInput if it is none."""
    if not isinstance(row, Mapping):
        raise BadInput(f"{where}: got a {type(row).__name__}, expected an object with `question` and `answers`")
    key = next((key for key in ANSWERS if key in row), None)
    if key is None or "question" not in row:
        missing = "answers (or answer)" if key is None else "question"
        raise BadInput(f"{where}: no {missing}, there are: {', '.join(map(str, row)) or 'none'}; rename yours")
    text = row["question"]
    if not isinstance(text, str) or not text.strip():
        raise BadInput(f"{where}: question is {text!r}, expected a text")
    number = next((str(row[key]) for key in IDS if row.get(key) is not None), "")
    answers, patterns = accepted(row[key], where), regex or row.get("regex") is True
    if patterns:
        check_patterns(answers, where)
    return Question(text=text.strip(), answers=answers, regex=patterns, id=number)


def check_patterns(answers: Iterable[str], where: str) -> None:
    """Raises BadInput for an answer that is no regular expression."""
    import regex

    for answer in answers:
        try:
            regex.compile(answer)
        except regex.error as error:
            raise BadInput(f"{where}: the answer {answer!r} is no regular expression ({error}); mend it") from error


def accepted(value: Any, where: str) -> tuple[str, ...]:
    """The answers that a value stands for: a string, a list, TriviaQA's value and aliases, or SQuAD's texts."""
    if isinstance(value, Mapping):
        value = [*([value["value"]] if "value" in value else []), *(value.get("aliases") or value.get("text") or [])]
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, list | tuple) or not all(isinstance(answer, str) for answer in answers):
        raise BadInput(f"{where}: answers are {value!r}, expected a string or a list of strings")
    return tuple(dict.fromkeys(stripped for answer in answers if (stripped := answer.strip())))
