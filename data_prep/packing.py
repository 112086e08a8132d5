"""Documents into passages: whole sentences, packed greedily into at most `max_length` word pieces.

Every sentence is tokenised once, alone; a passage's body is its sentences' pieces one after the other. That they are
the pieces of the passage's text as well holds because sentences meet at spaces (or at full stops that need none).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data_prep.sources import Document
from data_prep.splitting import Span, Splitter, normalised, parts, sentence_spans, splits_words
from data_prep.tokenizer import plain_tokenizer
from realm_train.data.passage_keys import hash64, passage_key

SPECIALS = 3  # [CLS] title [SEP] body [SEP]
CALL_CHARS = 300_000  # given to the tokenizer at once: bounds the memory of one huge document
TITLE_CHARS = 2_000  # of a title, at most; every passage of the document repeats it
PART_CHARS = 20_000  # of a long sentence, tokenised alone
SOURCE_COLUMNS = ("id", "content", "passages", "whole")  # of source_documents.npy, see realm_train.data.corpus


class Sentence(NamedTuple):
    """Characters of the document's text, and their word pieces."""

    start: int
    end: int
    tokens: np.ndarray  # [T]


@dataclass
class Passages:
    """Passages of a batch of documents, in order, and what was left out or changed on the way."""

    sources: list[tuple[int, int, int, bool]] = field(default_factory=list)  # a row a document, as SOURCE_COLUMNS
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # document's id, title, text
    documents: list[int] = field(default_factory=list)  # hash of the document's id
    keys: list[int] = field(default_factory=list)  # of title and body: equal passages have equal keys
    tokens: list[np.ndarray] = field(default_factory=list)  # [T] title, then body
    title_lengths: list[int] = field(default_factory=list)
    sentences: list[np.ndarray] = field(default_factory=list)  # [S, 4], columns as SENTENCE_COLUMNS of the corpus
    skipped: Counter = field(default_factory=Counter)
    changed: Counter = field(default_factory=Counter)

    def add(self, sentences: Sequence[Sentence], *, document: str, title: str, text: str, head: np.ndarray) -> None:
        """One passage: these sentences of the document's `text`, under the title's pieces `head`."""
        start = sentences[0].start
        ends = np.cumsum([len(sentence.tokens) for sentence in sentences])
        begins = [0, *ends[:-1]]
        rows = [(one.start - start, one.end - start, *at) for one, *at in zip(sentences, begins, ends, strict=True)]
        tokens = np.concatenate([head, *(sentence.tokens for sentence in sentences)])
        self.rows.append((document, title, text[start : sentences[-1].end]))
        self.documents.append(document_id(document))
        self.keys.append(passage_key(tokens, title_length=len(head)))
        self.tokens.append(tokens)
        self.title_lengths.append(len(head))
        self.sentences.append(np.array(rows, dtype=np.int32))

    def extend(self, other: Passages) -> None:
        """The other's documents after these."""
        for name, values in vars(other).items():
            mine = getattr(self, name)
            mine.update(values) if isinstance(values, Counter) else mine.extend(values)

    def add_source(self, document: int, key: int, *, passages: int, changed: Counter) -> None:
        """One document, after its passages."""
        self.sources.append((document, key, passages, not changed))
        self.changed.update(changed)
        if not passages:
            self.skipped["empty_document"] += 1


class Packer:
    """Turns batches of documents into Passages: a function with a tokenizer, sent to a worker process once."""

    def __init__(self, *, tokenizer: str, split: Splitter, clean: Callable[[str], str], max_length: int) -> None:
        self.split, self.clean, self.max_length = split, clean, max_length
        self._json, self._tokenizer = tokenizer, None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_tokenizer": None}

    def __call__(self, documents: Sequence[Document]) -> Passages:
        """Passages of the documents, in their order."""
        made, changes = Passages(), [Counter() for _ in documents]
        titles = self._titles(documents, changes)
        texts, spans = [], []
        for document, changed in zip(documents, changes, strict=True):
            text, starts = normalised(readable(self.clean(document.text), changed))
            texts.append(text)
            spans.append(sentence_spans(text, starts, split=self.split))
        around = ((text, span) for text, its in zip(texts, spans, strict=True) for span in its)
        encodings = self._encode(text[a:b] for text, span in around for a, b in parts(text, span, longest=PART_CHARS))
        for document, changed, (title, head), text, its in zip(documents, changes, titles, texts, spans, strict=True):
            budget = self.max_length - SPECIALS - len(head)
            sentences = list(sentences_of(text, its, encodings, budget=budget, changed=changed))
            groups = list(pack(sentences, text=text, budget=budget))
            for group in groups:
                made.add(group, document=document.id, title=title, text=text, head=head)
            made.add_source(document_id(document.id), document_key(document), passages=len(groups), changed=changed)
        return made

    def _titles(self, documents: Sequence[Document], changes: Sequence[Counter]) -> list[tuple[str, np.ndarray]]:
        """Texts and pieces of the titles, cut to half a passage at most."""
        whole = [
            normalised(readable(document.title, changed))[0]
            for document, changed in zip(documents, changes, strict=True)
        ]
        short = [title[:TITLE_CHARS] for title in whole]
        titles = []
        for title, given, changed, encoding in zip(short, whole, changes, self._encode(short), strict=True):
            span = [(0, len(title))]
            cut_up = list(sentences_of(title, span, iter([encoding]), budget=self.max_length // 2, changed=Counter()))
            kept = title[: cut_up[0].end] if len(cut_up) > 1 else title
            titles.append((kept, cut_up[0].tokens if cut_up else np.empty(0, dtype=np.int64)))
            if len(kept) < len(given):
                changed["cut_title"] += 1
        return titles

    def _encode(self, strings: Iterable[str]) -> Iterator:
        """Encodings of the strings, without special tokens, a bounded number of characters at a time."""
        self._tokenizer = self._tokenizer or plain_tokenizer(self._json)
        waiting, chars = [], 0
        for string in strings:
            waiting.append(string)
            chars += len(string)
            if chars >= CALL_CHARS:
                yield from self._tokenizer.encode_batch(waiting, add_special_tokens=False)
                waiting, chars = [], 0
        yield from self._tokenizer.encode_batch(waiting, add_special_tokens=False)


def sentences_of(
    text: str, spans: Iterable[Span], encodings: Iterator, *, budget: int, changed: Counter
) -> Iterator[Sentence]:
    """Sentences of at most `budget` pieces: a longer one is cut, one without a piece (invisible) is left out."""
    for start, end in spans:
        around = parts(text, (start, end), longest=PART_CHARS)
        found = [
            pieces(next(encodings), shift=first - start, whole=len(around) == 1, budget=budget) for first, _ in around
        ]
        tokens = np.concatenate([ids for ids, _, _ in found])
        if len(tokens) <= budget:
            if len(tokens):
                yield Sentence(start, end, tokens)
            continue
        changed["cut_sentence"] += 1
        begins, words = (np.concatenate(column) for column in list(zip(*found, strict=True))[1:])
        yield from cut(text, start, end, tokens=tokens, begins=begins, words=words, budget=budget)


def pieces(
    encoding, *, shift: int, whole: bool, budget: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Ids, first characters and word starts of an encoding; the last two only where a sentence will be cut."""
    ids = np.array(encoding.ids, dtype=np.int64)
    if whole and len(ids) <= budget:
        return ids, None, None
    begins = np.array([first for first, _ in encoding.offsets], dtype=np.int64) + shift
    words = np.array(encoding.word_ids, dtype=np.int64)
    return ids, begins, np.diff(words, prepend=-1) != 0


def cut(
    text: str, start: int, end: int, *, tokens: np.ndarray, begins: np.ndarray, words: np.ndarray, budget: int
) -> Iterator[Sentence]:
    """A long sentence in parts of at most `budget` pieces, cut where words begin, after a space if there is one."""
    starts = np.flatnonzero(words)
    spaced = np.array([at for at in starts.tolist() if text[start + begins[at] - 1] == " "], dtype=np.int64)
    low, first = 0, start
    while low < len(tokens):
        high = low + budget
        if high >= len(tokens):
            yield Sentence(first, end, tokens[low:])
            return
        high = last_within(spaced, low, high) or last_within(starts, low, high) or high
        last = start + int(begins[high])
        yield Sentence(first, first + len(text[first:last].rstrip(" ")), tokens[low:high])
        low, first = high, last


def last_within(positions: np.ndarray, low: int, high: int) -> int | None:
    """The largest of the sorted positions in (low, high]."""
    at = int(np.searchsorted(positions, high, side="right")) - 1
    return int(positions[at]) if at >= 0 and positions[at] > low else None


def pack(sentences: Iterable[Sentence], *, text: str, budget: int) -> Iterator[list[Sentence]]:
    """Greedy groups of following sentences with at most `budget` pieces; parts of a cut word never share a passage."""
    group, used = [], 0
    for sentence in sentences:
        size = len(sentence.tokens)
        if group and (used + size > budget or not splits_words(text, sentence.start)):
            yield group
            group, used = [], 0
        group.append(sentence)
        used += size
    if group:
        yield group


def readable(text: str, changed: Counter) -> str:
    """The text with U+FFFD for lone surrogates, which JSON can spell and no tokenizer or table can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        changed["lone_surrogates"] += 1
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def document_id(name: str) -> int:
    """The hash of a document's id."""
    return hash64(name.encode("utf-8", "replace"))


def document_key(document: Document) -> int:
    """The hash of all that a source says of a document."""
    content = f"{len(document.id)} {len(document.title)} {document.id}{document.title}{document.text}"
    return hash64(content.encode("utf-8", "surrogatepass"))
