"""Text into sentences: a splitter is any callable `text -> [(start, end), ...]` in characters, in order."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

from realm_train.errors import BadInput

Span = tuple[int, int]
Splitter = Callable[[str], list[Span]]

FULL_STOPS = "。！？｡」』）"  # a sentence ends here without a space, and so does a word
WORD_CHARS = 2_000  # a longer run without a space is data, or a script without spaces: it is cut, best at a full stop
PARAGRAPH = re.compile(r"\n\s*\n")
LONG_RUN = re.compile(rf"\S{{{WORD_CHARS},}}")
RUN_PART = re.compile(rf"\S{{1,{WORD_CHARS - 1}}}[{FULL_STOPS}]|\S{{1,{WORD_CHARS}}}")


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
    for start, after in itertools.pairwise([*starts, len(text) + 1] if starts else []):
        for low, high in itertools.pairwise(run_cuts(text, start, after - 1)):
            block = text[low:high]
            begins = {begin for begin, _ in split(block) if begin > 0 and splits_words(block, begin)}
            for first, last in itertools.pairwise([0, *sorted(begins), len(block)]):
                words = block[first:last]
                if stripped := words.strip(" "):
                    lead = low + first + len(words) - len(words.lstrip(" "))
                    spans.append((lead, lead + len(stripped)))
    return spans


def run_cuts(text: str, start: int, end: int) -> list[int]:
    """Start, end, and the places between them where a run without spaces is too long for a splitter and a tokenizer."""
    inner = []
    for run in LONG_RUN.finditer(text, start, end):
        inner += [part.end() for part in RUN_PART.finditer(text, run.start(), run.end())][:-1]
    return [start, *inner, end]


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
            pipeline.disable_pipe("parser")
        pipeline.max_length = 1 << 40
        loaded[model] = pipeline
    return loaded[model]
