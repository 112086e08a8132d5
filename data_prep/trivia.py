"""Trivia questions from the YAML lists of the package Red-Trivia: a question and its accepted answers an entry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from data_prep.question_sources import Candidate, QuestionSource, question_key
from data_prep.step import digest, fingerprint
from realm_train.data.questions import Question
from realm_train.errors import BadInput

NO_QUESTIONS = {"AUTHOR", "CONFIG"}
LINK = re.compile(r"https?://")
OPTIONS = re.compile(r"\b(?:which|what|one) of (?:the following|these)\b|\btrue or false\b", re.IGNORECASE)
LABEL = re.compile(r"(?:\[(?P<category>[^\]]+)\]|[A-Z]\w*(?: \w+){0,2}:)\s*(?P<rest>.*)")
# what no mere term begins with, or has: a word that asks, a number, a blank to fill in
ASKS = re.compile(r"(?:who|what|which|when|where|why|how)\b|\d|.*__", re.IGNORECASE)
TERM_WORDS = 3  # what follows a label is a question from one word more on


@dataclass
class Trivia(QuestionSource):
    """Some of the lists in the folder `path`; what asks for more than words is left out and counted.

    Skipped: `image` (a link to look at), `options` (one of several, which are not in the question), `mapping` (a label
    and a term, to be told what belongs to it), `no_answer`. A category before a question is taken off.
    """

    path: str
    lists: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.lists = [str(name) for name in self.lists]

    def _files(self) -> list[Path]:
        files = [Path(self.path) / f"{name}.yaml" for name in self.lists]
        if missing := [file.stem for file in files if not file.is_file()]:
            there = ", ".join(sorted(file.stem for file in Path(self.path).glob("*.yaml"))) or "none"
            raise BadInput(f"source.lists: {self.path} has no list {', '.join(missing)}, there are: {there}")
        return files

    def inputs(self) -> list[dict]:
        return [{**fingerprint(file), "path": file.name} for file in self._files()]

    def __iter__(self) -> Iterator[Candidate]:
        for file in self._files():
            for text, answers in entries(file):
                if reason := unfit(text, answers):
                    self.skipped[reason] += 1
                    continue
                asked = without_category(text)
                self.changed["category_taken_off"] += asked != text
                key = question_key(asked)
                number = f"{file.stem}/{digest({'question': key})[:12]}"
                yield Candidate(Question(text=asked, answers=answers, id=number), key=key, group=file.stem)


def entries(file: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The questions of a list and their answers, as they are written: no answer becomes a number, a date or a truth
    value, and a question that stands there twice comes twice."""
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{file}: cannot be read as YAML ({' '.join(str(error).split())}); mend it") from error
    if not isinstance(root, yaml.MappingNode):
        raise BadInput(f"{file}: got no questions, expected `question:` and a list of answers under it")
    for key, value in root.value:
        if key.value in NO_QUESTIONS:
            continue
        nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(node, yaml.ScalarNode) for node in (key, *nodes)):
            line = key.start_mark.line + 1
            raise BadInput(f"{file}:{line}: expected a question and a list of texts as its answers; mend it")
        answers = dict.fromkeys(answer for node in nodes if (answer := " ".join(node.value.split())))
        yield " ".join(key.value.split()), tuple(answers)


def unfit(text: str, answers: tuple[str, ...]) -> str | None:
    """Why a question cannot be asked in words alone, or None if it can."""
    if LINK.search(text):
        return "image"
    if not answers:
        return "no_answer"
    label = LABEL.fullmatch(text)
    if OPTIONS.search(text) or (label and "/" in (label["category"] or "")):
        return "options"
    if label and len(label["rest"].split()) <= TERM_WORDS and not ASKS.match(label["rest"]):
        return "mapping"
    return None


def without_category(text: str) -> str:
    """A question without the category in brackets before it: "[Acronyms]What does CPU stand for?"."""
    label = LABEL.fullmatch(text)
    return label["rest"] if label and label["category"] else text
