"""A new collection prepared from the corpus of an older one: documents that have not changed are not tokenised again.

What a document becomes depends on nothing but itself, so its passages can be read from the older corpus, if all of them
are there (none was left out as another's duplicate). What depends on the whole collection, duplicates and near
duplicates, is found anew: the new corpus is the one that would be prepared from nothing, byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.packing import Packer, Passages, document_id, document_key
from data_prep.sources import Document
from data_prep.step import intact
from realm_train.errors import BadInput

DECIDING = ("format", "max_length", "tokenizer", "splitter", "clean")  # settings that decide a document's passages


class Carried(NamedTuple):
    """A document whose passages are those from `first` up to `last` of the older corpus."""

    id: int
    key: int
    first: int
    last: int


class Carrier:
    """Packs batches of which some documents are carried over: a function, sent to a worker process once."""

    def __init__(self, packer: Packer, older: Path) -> None:
        self.packer, self.older = packer, older

    def __getstate__(self) -> dict:
        return {"packer": self.packer, "older": self.older}

    def __call__(self, documents: Sequence[Document | Carried]) -> Passages:
        """Passages of the documents, in their order."""
        made = Passages()
        for carried, group in groupby(documents, key=lambda document: isinstance(document, Carried)):
            if carried:
                self._carry(list(group), made)
            else:
                made.extend(self.packer(list(group)))
        return made

    def _carry(self, documents: Sequence[Carried], made: Passages) -> None:
        for first, last in runs(documents):
            self._copy(first, last, made)
        for document in documents:
            made.add_source(document.id, document.key, passages=document.last - document.first, changed=Counter())

    def _copy(self, first: int, last: int, made: Passages) -> None:
        corpus = self._corpus
        columns = corpus.passages(first, last)
        made.rows += zip(columns["document"], columns["title"], columns["text"], strict=True)
        made.documents += corpus.documents[first:last].tolist()
        made.keys += corpus.passage_keys[first:last].tolist()
        made.title_lengths += corpus.title_lengths[first:last].tolist()
        offsets = corpus.token_offsets[first : last + 1].tolist()
        made.tokens += [corpus.tokens[start:end] for start, end in zip(offsets, offsets[1:], strict=False)]
        made.sentences += [corpus.sentences(passage) for passage in range(first, last)]

    @cached_property
    def _corpus(self):
        from realm_train.data.corpus import Corpus  # brings torch, which workers that only pack do without

        return Corpus(self.older)


def runs(documents: Iterable[Carried]) -> Iterator[tuple[int, int]]:
    """The documents' passages as few ranges: what follows in both collections is read at once."""
    first = last = 0
    for document in documents:
        if document.first != last:
            yield from [(first, last)] if last > first else []
            first = document.first
        last = document.last
    yield from [(first, last)] if last > first else []


class Older:
    """The documents of an older corpus, looked up by their content; counts what became of them."""

    def __init__(self, corpus) -> None:
        self.corpus = corpus
        table = corpus.source_documents
        self.lasts = np.cumsum(table[:, 2])
        self.sizes, self.whole = table[:, 2], table[:, 3]
        self.order = np.argsort(table[:, 1], kind="stable")  # of documents told twice the first is found
        self.contents = table[self.order, 1]
        self.ids, self.occurrences = np.unique(table[:, 0], return_counts=True)
        self.seen = np.zeros(len(self.ids), dtype=bool)
        self.counts = Counter(added=0, edited=0, removed=0, unchanged=0, carried=0)

    def marked(self, documents: Sequence[Document]) -> list[Document | Carried]:
        """The documents, in their place what is carried over of those whose passages are all here."""
        ids = np.array([document_id(document.id) for document in documents], dtype=np.int64)
        keys = np.array([document_key(document) for document in documents], dtype=np.int64)
        at, unchanged = find(self.contents, keys)
        named, known = find(self.ids, ids)
        self.seen[named[known]] = True
        rows = self.order[at]
        carried = unchanged & (self.whole[rows] == 1)
        self.counts.update(
            unchanged=int(unchanged.sum()),
            edited=int((known & ~unchanged).sum()),
            added=int((~known & ~unchanged).sum()),
            carried=int(carried.sum()),
        )
        return [
            Carried(int(ids[one]), int(keys[one]), int(self.lasts[row] - self.sizes[row]), int(self.lasts[row]))
            if carried[one]
            else documents[one]
            for one, row in enumerate(rows.tolist())
        ]

    def report(self) -> dict:
        """For the manifest, when all documents were marked."""
        self.counts["removed"] = int(self.occurrences[~self.seen].sum())
        return {"folder": str(self.corpus.folder), "corpus": self.corpus.hash, "documents": dict(self.counts)}


def find(ordered: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first places of `wanted` [N] in a sorted array, and whether they are there at all."""
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, ordered[at] == wanted


def older_corpus(folder: str | Path, *, settings: dict) -> Older:
    """The corpus to carry documents over from; raises BadInput if it was prepared in another way, or is damaged."""
    from realm_train.data.corpus import Corpus

    corpus = Corpus(folder)
    was = corpus.manifest["settings"]
    other = [f"{key} {was.get(key)}, expected {settings[key]}" for key in DECIDING if was.get(key) != settings[key]]
    if other:
        raise BadInput(
            f"update: {folder} was prepared with {'; '.join(other)}; give the same settings, or prepare from nothing"
            " (without update=)"
        )
    if not intact(corpus.folder, corpus.manifest):
        raise BadInput(f"update: {folder} is damaged, files are missing or cut; prepare from nothing (without update=)")
    return Older(corpus)
