"""From what a tagger found, in characters, to what can be masked, in whole word pieces of one sentence."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.taggers import Entity

ARTICLE = re.compile(r"(?:the|an|a)\s+", re.IGNORECASE)
POSSESSIVE = re.compile(r"['’]s$", re.IGNORECASE)
ABBREVIATION = re.compile(r"(?:\w\.){2,}$")
EDGE = "PZC"  # Unicode's punctuation, separators, and control or format characters
STOPWORD = re.compile(
    r"i|me|my|mine|you|yours?|he|him|his|she|hers?|it|its|we|us|ours?|they|them|theirs?|who|whom|whose|this|that|these"
    r"|those|here|there|ones?|others?|another|some|any|all|both|each|every|none|nothing",
    re.IGNORECASE,
)

Row = tuple[int, int, int, int, int, str]  # the columns of realm_train.data.corpus.SPAN_COLUMNS, the label as text


@dataclass(frozen=True)
class Passage:
    """A passage's text and its body's word pieces."""

    text: str
    sentences: np.ndarray  # [S, 4], see realm_train.data.corpus.SENTENCE_COLUMNS
    starts: np.ndarray  # [T] of every piece, in characters
    ends: np.ndarray  # [T]
    words: np.ndarray  # [T] the word that a piece belongs to
    unknown: np.ndarray  # [T] whether it is the tokenizer's [UNK]


def align(passage: Passage, entities: Sequence[Entity], *, max_tokens: int) -> tuple[list[Row], Counter]:
    """The spans that can be masked, in order and without overlap, and how many entities were skipped, by reason."""
    rows: list[Row] = []
    skipped: Counter = Counter()
    for entity in entities:
        start, end = trim(passage.text, entity.start, entity.end)
        first, last = pieces(passage, start, end)
        sentence = sentence_of(passage.sentences, start, end)
        reason = _reason(passage, start, end, first, last, sentence, max_tokens)
        if reason is None:
            rows.append((sentence, start, end, first, last, entity.label))
        else:
            skipped[reason] += 1
    kept = longest(rows)
    if len(kept) < len(rows):
        skipped["overlap"] = len(rows) - len(kept)
    return kept, skipped


def _reason(
    passage: Passage, start: int, end: int, first: int, last: int, sentence: int | None, max_tokens: int
) -> str | None:
    """Why a trimmed entity is no span, None if it is one."""
    if start >= end or STOPWORD.fullmatch(passage.text, start, end):
        return "stopword"
    if sentence is None:
        return "crosses_sentence"
    if first >= last:
        return "no_token"
    if passage.starts[first] < start or passage.ends[last - 1] > end:
        return "partial_token"
    words = passage.words
    if (first > 0 and words[first - 1] == words[first]) or (last < len(words) and words[last] == words[last - 1]):
        return "partial_word"
    if passage.unknown[first:last].any():
        return "unknown_token"
    return "too_long" if last - first > max_tokens else None


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Without punctuation and space at the ends, leading articles and a possessive 's; "U.S." keeps its last dot."""
    while start < end:
        if unicodedata.category(text[start])[0] in EDGE:
            start += 1
        elif article := ARTICLE.match(text, start, end):
            start = article.end()
        elif possessive := POSSESSIVE.search(text, start, end):
            end = possessive.start()
        elif unicodedata.category(text[end - 1])[0] in EDGE and not ABBREVIATION.search(text[start:end]):
            end -= 1
        else:
            break
    return start, end


def pieces(passage: Passage, start: int, end: int) -> tuple[int, int]:
    """The pieces [first, last) that have a character in text[start:end]; some may reach outside of it."""
    first = np.searchsorted(passage.ends, start, side="right")
    last = np.searchsorted(passage.starts, end, side="left")
    return int(first), int(last)


def sentence_of(sentences: np.ndarray, start: int, end: int) -> int | None:
    """The ordinal of the sentence that holds text[start:end] wholly, None if there is none."""
    ordinal = int(np.searchsorted(sentences[:, 0], start, side="right")) - 1
    return ordinal if ordinal >= 0 and end <= sentences[ordinal, 1] else None


def longest(rows: Sequence[Row]) -> list[Row]:
    """Of rows that overlap the longest in characters, of equally long ones the first; ordered by place."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: row[1] - row[2]):
        if all(row[2] <= other[1] or other[2] <= row[1] for other in kept):
            kept.append(row)
    return sorted(kept, key=lambda row: row[1])
