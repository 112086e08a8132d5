"""What is salient in a text: a tagger is any callable `texts -> [[Entity, ...], ...]`, entities by character offset.

A tagger is small and picklable until its first call, which loads its model: each worker process loads its own.
Entities may overlap; the span step keeps the longest of those that can be masked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

from realm_train.errors import BadInput


class Entity(NamedTuple):
    """`text[start:end]` is an entity of kind `label`."""

    start: int
    end: int
    label: str


class Tagger(Protocol):
    """Finds the entities of many texts."""

    def __call__(self, texts: Sequence[str]) -> list[list[Entity]]: ...

    def settings(self) -> dict:
        """All that decides what it finds, known without loading a model: spans are made again when it changes."""
        ...

    def version(self) -> dict:
        """Which version of which model was loaded, for the manifest."""
        ...


class SpacyTagger:
    """The entities of a spaCy pipeline: `model` is an installed package or a folder, `labels` those to keep."""

    def __init__(self, model: str, labels: Sequence[str], batch_size: int = 256) -> None:
        self.model, self.labels, self.batch_size = model, frozenset(labels), batch_size

    def __call__(self, texts: Sequence[str]) -> list[list[Entity]]:
        """Raises BadInput if the model is not installed or has no entity recogniser."""
        return [
            [Entity(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents if ent.label_ in self.labels]
            for doc in self._pipeline.pipe(texts, batch_size=self.batch_size)
        ]

    def settings(self) -> dict:
        """Model and labels."""
        return {"tagger": "spacy", "model": self.model, "labels": sorted(self.labels)}

    def version(self) -> dict:
        """As the model gives it."""
        meta = self._pipeline.meta
        return {f"{meta['lang']}_{meta['name']}": meta["version"]}

    @cached_property
    def _pipeline(self):
        try:
            import spacy

            pipeline = spacy.load(self.model)
        except (ImportError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(
                f"tagger: spaCy cannot load {self.model!r} ({reason}); install it (pip install -e '.[quickstart]' has"
                " the default), or name another with tagger.entities.model=…, or use the dates alone with tagger=dates"
            ) from error
        if "ner" not in pipeline.pipe_names:
            raise BadInput(
                f"tagger: spaCy's {self.model!r} has {pipeline.pipe_names} and no 'ner'; name another model"
                " with tagger.entities.model=…"
            )
        pipeline.select_pipes(enable=[name for name, part in pipeline.pipeline if name == "ner" or _feeds_ner(part)])
        return pipeline


def _feeds_ner(part) -> bool:
    """Whether a part of a spaCy pipeline embeds tokens for its `ner`; small models have an embedding for it alone."""
    return "ner" in getattr(part, "listening_components", ())


class TokenClassifierTagger:
    """The entities of a Hugging Face token classifier, by hub name or folder; `labels` are those to keep, None for all.

    A word gets the label of its first piece, words are joined by the B-/I-/E-/S- prefixes of their labels. A text
    longer than the model reads is read in windows that share `stride` pieces.
    """

    def __init__(
        self,
        model: str,
        labels: Sequence[str] | None = None,
        batch_size: int = 32,
        device: str = "auto",
        stride: int = 32,
    ) -> None:
        self.model, self.labels = model, None if labels is None else frozenset(labels)
        self.batch_size, self.device, self.stride = batch_size, device, stride

    def __call__(self, texts: Sequence[str]) -> list[list[Entity]]:
        """Raises BadInput if the model cannot be loaded or its tokenizer has no character offsets."""
        return [
            entities
            for start in range(0, len(texts), self.batch_size)
            for entities in self._tag(texts[start : start + self.batch_size])
        ]

    def settings(self) -> dict:
        """Model, labels, and the windows of long texts."""
        labels = None if self.labels is None else sorted(self.labels)
        return {"tagger": "hf", "model": self.model, "labels": labels, "stride": self.stride}

    def version(self) -> dict:
        """The commit on the hub, None for a folder."""
        return {self.model: getattr(self._loaded[1].config, "_commit_hash", None)}

    def _tag(self, texts: Sequence[str]) -> list[list[Entity]]:
        tokenizer, model, max_length = self._loaded
        windows = tokenizer(
            list(texts),
            truncation=True,
            max_length=max_length,
            stride=min(self.stride, max_length // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=True,
            return_tensors="pt",
        )
        best = self._best_labels(model, windows)
        found: list[list[Entity]] = [[] for _ in texts]
        for row, text in enumerate(windows["overflow_to_sample_mapping"].tolist()):
            words = _words(windows.encodings[row], [model.config.id2label[label] for label in best[row]])
            found[text] += [entity for entity in decode(words) if self.labels is None or entity.label in self.labels]
        return found

    @staticmethod
    def _best_labels(model, windows) -> list[list[int]]:
        import torch

        inputs = {name: windows[name].to(model.device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            return model(**inputs).logits.argmax(dim=-1).tolist()

    @cached_property
    def _loaded(self) -> tuple:
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model)
            model = AutoModelForTokenClassification.from_pretrained(self.model)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise BadInput(
                f"tagger: Hugging Face cannot load {self.model!r} ({reason}); give tagger.entities.model= the"
                " folder or the hub name of a token classifier, downloaded beforehand where there is no network"
            ) from error
        if not tokenizer.is_fast:
            raise BadInput(f"tagger: the tokenizer of {self.model!r} gives no character offsets; give another model")
        cuda = self.device == "auto" and torch.cuda.is_available()
        device = "cuda" if cuda else "cpu" if self.device == "auto" else self.device
        max_length = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
        return tokenizer, model.eval().to(device), max_length


def _words(encoding, labels: Sequence[str]) -> list[Entity]:
    """The words of one window, each with the label of its first piece; special tokens are no words."""
    words: list[Entity] = []
    previous = None
    for word, (start, end), label in zip(encoding.word_ids, encoding.offsets, labels, strict=True):
        if word is not None and word == previous:
            words[-1] = words[-1]._replace(end=end)
        elif word is not None:
            words.append(Entity(start, end, label))
        previous = word
    return words


def decode(words: Sequence[Entity]) -> list[Entity]:
    """Entities from words with IO, BIO, BIOES or BILOU labels; an entity that begins without its B- still counts."""
    entities: list[Entity] = []
    open_kind = None
    for word in words:
        prefix, kind = _split(word.label)
        if kind is not None and kind == open_kind and prefix in ("I", "E", "L"):
            entities[-1] = entities[-1]._replace(end=word.end)
        elif kind is not None:
            entities.append(Entity(word.start, word.end, kind))
        open_kind = None if prefix in ("E", "L", "S", "U") else kind
    return entities


def _split(label: str) -> tuple[str, str | None]:
    """`B-PER` is ("B", "PER"), `PER` is ("I", "PER") and `O` is ("O", None)."""
    if label == "O":
        return "O", None
    prefix, dash, kind = label.partition("-")
    return (prefix, kind) if dash and prefix in "BIESLU" else ("I", label)


class DateTagger:
    """Dates that name a point or a period of the calendar, by regular expression; "today" and "two years" are none."""

    def __call__(self, texts: Sequence[str]) -> list[list[Entity]]:
        return [[Entity(*match.span(), "DATE") for match in DATE.finditer(text)] for text in texts]

    def settings(self) -> dict:
        """The pattern, by its hash."""
        return {"tagger": "dates", "pattern": hashlib.sha256(DATE.pattern.encode()).hexdigest()[:16]}

    def version(self) -> dict:
        """No model, no version."""
        return {}


class UnionTagger:
    """The entities of several taggers, in the order of the taggers."""

    def __init__(self, **taggers: Tagger) -> None:
        self.taggers = taggers

    def __call__(self, texts: Sequence[str]) -> list[list[Entity]]:
        found = [tagger(texts) for tagger in self.taggers.values()]
        return [[entity for entities in of_text for entity in entities] for of_text in zip(*found, strict=True)]

    def settings(self) -> dict:
        """Those of its parts."""
        return {"tagger": "union", **{name: tagger.settings() for name, tagger in self.taggers.items()}}

    def version(self) -> dict:
        """Those of its parts together."""
        return {model: version for tagger in self.taggers.values() for model, version in tagger.version().items()}


MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?)"
)
DAY = r"(?:[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?"
ERA = r"(?:BCE|BC|CE|AD|B\.C\.E\.|B\.C\.|C\.E\.|A\.D\.)"
YEAR = r"(?:1\d{3}|20\d{2})"
ORDINAL = (
    r"(?:\d{1,2}(?:st|nd|rd|th)|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth"
    r"|thirteenth|fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|twenty-first)"
)
# What four digits count when they are no year.
UNIT = (
    r"(?:[kcm]?m|km[²2]?|mi|ft|kg|g|°|metres?|meters?|kilomet\w+|miles?|feet|acres|hectares|tons|tonnes|people|men|women"
    r"|soldiers|troops|inhabitants|residents|species|islands|languages|members|students|employees|years?|days|hours"
    r"|times|million|billion|square|cubic|different|other|more|or\smore)"
)
DATE = re.compile(
    rf"""
      (?<!\w)(?:
        {DAY}\s(?:of\s)?{MONTH}(?:,?\s\d{{1,4}}\s{ERA}|,?\s{YEAR}(?!\w))?(?!\w)    # 12 March 1998, 12 March
      | {MONTH}\s{DAY}(?:,?\s\d{{1,4}}\s{ERA}|,?\s{YEAR}(?!\w))?(?!\w)             # March 12, 1998
      | {MONTH},?\s(?:of\s)?{YEAR}(?!\w)                                         # March 1998
      | (?i:{ORDINAL}[\s-](?:centur(?:y|ies)|millenni(?:um|a)))(?:\s{ERA})?(?!\w) # 5th century BC
      | (?:AD|A\.D\.|CE)\s\d{{1,4}}(?!\w)                                        # AD 79
      | \d{{1,3}}(?:,\d{{3}}|\d)?\s{ERA}(?!\w)                                   # 44 BC, 10,000 BC
      | (?:1\d|20)\d0['’]?s(?!\w)                                               # 1990s
      | (?<![$€£¥#@])(?<!\d[.,]){YEAR}(?![\w%°]|[.,]\d|-[a-z]|\s{UNIT}(?!\w))    # 1998
      )""",
    re.VERBOSE,
)
