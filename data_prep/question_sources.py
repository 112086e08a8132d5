"""Where prepared questions come from: a source yields them one by one, and counts what it left out or changed."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data_prep.step import fingerprint
from realm_train.data.questions import Question, read_questions
from realm_train.errors import BadInput


class Candidate(NamedTuple):
    """A question, what decides its split (two of one key are never in different ones), and what it is counted under."""

    question: Question
    key: str
    group: str


@dataclass
class QuestionSource(ABC):
    """Base of all sources of questions; `splits` maps names of splits to their shares, which sum to 1."""

    splits: dict[str, float]
    skipped: Counter = field(default_factory=Counter, init=False, repr=False)
    changed: Counter = field(default_factory=Counter, init=False, repr=False)

    def __post_init__(self) -> None:
        self.splits = {str(name): float(share) for name, share in self.splits.items()}
        if min(self.splits.values(), default=0) < 0 or abs(sum(self.splits.values()) - 1) > 1e-9:
            given = ", ".join(f"{name} {share:g}" for name, share in self.splits.items()) or "none"
            raise BadInput(f"source.splits: got {given}; expected shares that sum to 1")

    @abstractmethod
    def inputs(self) -> list[dict]:
        """Fingerprints of everything that is read."""

    @abstractmethod
    def __iter__(self) -> Iterator[Candidate]: ...

    def settings(self) -> dict:
        """What else decides the questions: class and fields, without the path, which `inputs` covers."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init and f.name != "path"}
        return {"source": type(self).__name__, **fields}


@dataclass
class File(QuestionSource):
    """Whatever `read_questions` reads; questions go to the splits by the hash of their words."""

    path: str
    regex: bool = False
    name: str | None = None
    split: str | None = None

    def inputs(self) -> list[dict]:
        place = Path(self.path)
        if not place.exists():
            return [{"name": self.path}]
        files = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
        return [fingerprint(file) for file in files]

    def __iter__(self) -> Iterator[Candidate]:
        for question in read_questions(self.path, regex=self.regex, name=self.name, split=self.split):
            yield Candidate(question, key=question_key(question.text), group=Path(self.path).name)


def question_key(text: str) -> str:
    """Equal for questions that differ in case, accents, punctuation and spaces at most."""
    bare = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return " ".join(re.findall(r"[^\W_]+", bare.casefold())) or text
