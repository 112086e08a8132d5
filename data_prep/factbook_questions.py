"""Questions about countries from the structured fields of the CIA World Factbook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.factbook_attributes import ATTRIBUTES, Attribute
from data_prep.question_sources import Candidate, QuestionSource
from data_prep.sources import country_name, read_json, strip_html
from data_prep.step import digest, fingerprint
from realm_train.data.questions import Question
from realm_train.errors import BadInput

WITH_ARTICLE = re.compile(r".*(Islands|States|Kingdom|Emirates|Republic|Territory|Lands|Philippines|Netherlands)")


@dataclass
class FactbookQuestions(QuestionSource):
    """Every attribute of every country that has a short answer, asked in `phrasings` ways (None: in all there are).

    Splits are by (country, attribute): what dev and test ask is asked in no other way in train. Skipped: `no_name`
    (countries), `no_field` and `no_short_answer` (pairs).
    """

    path: str
    phrasings: int | None = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phrasings is not None and self.phrasings < 1:
            raise BadInput(f"source.phrasings: got {self.phrasings}, expected at least 1, or null for all")

    def _files(self) -> list[Path]:
        return sorted(Path(self.path).glob("*/*.json"))

    def inputs(self) -> list[dict]:
        return [{**fingerprint(file), "path": f"{file.parent.name}/{file.name}"} for file in self._files()]

    def settings(self) -> dict:
        asked = [[one.name, one.path, one.read.__name__, *one.phrasings] for one in ATTRIBUTES]
        return {**super().settings(), "attributes": digest({"attributes": asked})}

    def __iter__(self) -> Iterator[Candidate]:
        for file in self._files():
            country = read_json(file)
            name = country_name(country)
            if name is None:
                self.skipped["no_name"] += 1
                continue
            for attribute in ATTRIBUTES:
                yield from self._asked(country, attribute, name=name, code=file.stem)

    def _asked(self, country: dict, attribute: Attribute, *, name: str, code: str) -> Iterator[Candidate]:
        text = field_text(country, attribute.path)
        if text is None:
            self.skipped["no_field"] += 1
            return
        answers = tuple(dict.fromkeys(attribute.read(text)))
        if not answers:
            self.skipped["no_short_answer"] += 1
            return
        pair = f"{code}/{attribute.name}"
        for number in chosen(pair, len(attribute.phrasings), wanted=self.phrasings):
            asked = attribute.phrasings[number].format(name=with_article(name))
            question = Question(text=asked[0].upper() + asked[1:], answers=answers, id=f"{pair}/{number}")
            yield Candidate(question, key=pair, group=attribute.name)


def field_text(country: dict, path: str) -> str | None:
    """The plain text of the field that the labels lead to, or of the only one below; None where there is none."""
    value = country
    for label in labels_of(path):
        value = next((value[key] for key in value if key.strip() == label and isinstance(value[key], dict)), None)
        if value is None:
            return None
    inner = value.get(labels_of(path)[-1], value)  # some countries have a field below of the same name
    text = inner.get("text") if isinstance(inner, dict) else None
    return strip_html(re.sub(r"<br\s*/?>|</p>", "; ", text)).strip("; ") if isinstance(text, str) else None


def labels_of(path: str) -> list[str]:
    """The labels of a path; a slash without a section around it belongs to a label ("lyrics/music")."""
    return path.replace("lyrics/music", "lyrics\0music").replace("/", "\n").replace("\0", "/").split("\n")


def chosen(pair: str, count: int, *, wanted: int | None) -> list[int]:
    """Which of `count` phrasings a pair is asked in, by hash, so that no phrasing stands for a country."""
    order = sorted(range(count), key=lambda number: digest({"pair": pair, "phrasing": number}))
    return sorted(order[:wanted])


def with_article(name: str) -> str:
    """A country's name as it stands in a sentence: "the Netherlands"."""
    if name.startswith("The "):
        return f"the {name[4:]}"
    return f"the {name}" if WITH_ARTICLE.fullmatch(name) else name
