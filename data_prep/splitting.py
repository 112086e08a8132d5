"""Text into sentences: a splitter is any callable `text -> [(start, end), ...]` in characters, in order."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

from realm_train.errors import BadInput

Span = tuple[int, int]
Splitter = Callable[[str], list[Span]]

FULL_STOPS = "。！？｡…」』）"  # a sentence ends here without a space, and so does a word
WORD_CHARS = 20_000  # a longer "word" is data, not language: it is cut, or one token would stand for megabytes of text
PARAGRAPH = re.compile(r"\n\s*\n")
DATA = re.compile(rf"\S{{{WORD_CHARS},}}")


def normalised(text: str) -> tuple[str, list[int]]:
    """The text with single spaces for whitespace, and the positions at which its paragraphs begin."""
    text = text.replace("\r\n", "\n")
    paragraphs = [words for part in PARAGRAPH.split(text) if (words := " ".join(part.split()))]
    starts, position = [], 0
    for paragraph in paragraphs:
        starts.append(position)
        position += len(paragraph) + 1
    return " ".join(paragraphs), starts


def sentence_spans(text: str, starts: list[int], *, split: Splitter) -> list[Span]:
    """Characters of the sentences of a normalised text, stripped: every other character is a space between them.

    No sentence runs over a paragraph's start, and none begins inside of a word, whatever the splitter says.
    """
    spans = []
    edges = [*starts, len(text) + 1] if starts else []
    for start, after in itertools.pairwise(edges):
        paragraph = text[start : after - 1]
        begins = {first for first, _ in split(paragraph)}
        begins = {begin for begin in begins if begin == 0 or splits_words(paragraph, begin)} | {0}
        for data in DATA.finditer(paragraph):
            begins |= set(range(data.start() + WORD_CHARS, data.end(), WORD_CHARS))
        cuts = sorted(begins) + [len(paragraph)]
        for first, last in itertools.pairwise(cuts):
            words = paragraph[first:last]
            if stripped := words.strip(" "):
                lead = start + first + len(words) - len(words.lstrip(" "))
                spans.append((lead, lead + len(stripped)))
    return spans


def splits_words(text: str, position: int) -> bool:
    """Whether the word pieces before and after a position are those of the whole: at a space or after a full stop."""
    around = text[position - 1 : position + 1]
    return " " in around or around[:1] in FULL_STOPS


def parts(text: str, span: Span, *, longest: int) -> list[Span]:
    """A long span in parts of about `longest` characters, cut at spaces: their pieces are those of the whole."""
    start, end = span
    cuts = [start]
    while end - cuts[-1] > longest and (space := text.find(" ", cuts[-1] + longest, end)) > 0:
        cuts.append(space + 1)
    return list(zip(cuts, [*(cut - 1 for cut in cuts[1:]), end], strict=True))


@dataclass(frozen=True)
class Sentencex:
    """Wikimedia's rules for some 300 languages: abbreviations, initials and quotes, millions of words a second."""

    language: str = "en"

    def __call__(self, text: str) -> list[Span]:
        try:
            import sentencex
        except ImportError as error:
            raise BadInput("the sentence splitter is missing: pip install sentencex, or give splitter=spacy") from error
        found = sentencex.get_sentence_boundaries(self.language, text)
        return [(boundary["start_index"], boundary["end_index"]) for boundary in found]


@dataclass(frozen=True)
class Spacy:
    """A spaCy pipeline's sentences; `model` is a package that is installed, with `senter` where it has one."""

    model: str

    def __call__(self, text: str) -> list[Span]:
        return [(sentence.start_char, sentence.end_char) for sentence in _pipeline(self.model)(text).sents]


def _pipeline(model: str, loaded: dict = {}):  # noqa: B006 - one pipeline a process, outside of the pickled splitter
    if model not in loaded:
        try:
            import spacy

            pipeline = spacy.load(model, exclude=["ner", "lemmatizer", "attribute_ruler", "tagger"])
        except (ImportError, OSError) as error:
            raise BadInput(f"splitter: spaCy cannot load {model!r} ({error}); pip install it") from error
        if "senter" in pipeline.disabled:
            pipeline.enable_pipe("senter")
            pipeline.disable_pipes("parser")
        pipeline.max_length = 1 << 40
        loaded[model] = pipeline
    return loaded[model]
