"""Spans of an older corpus that hold for a newer one: those of passages with the same text, tagged in the same way."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from data_prep.alignment import Row
from data_prep.step import intact
from data_prep.update import find
from realm_train.batch import MISSING
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput


class CarriedSpans:
    """Looks up what an older corpus has for a passage; `rows` [N] is where it may be there, or MISSING."""

    def __init__(self, older: Corpus, rows: np.ndarray) -> None:
        self.older, self.rows = older, rows
        self.labels = older.span_manifest["labels"]

    def __call__(self, passage: int, text: str) -> list[Row] | None:
        """The spans of the passage with this text, None if they are not known."""
        row = int(self.rows[passage])
        if row == MISSING or self.older.passage(row)["text"] != text:  # equal pieces may be spelt with other capitals
            return None
        return [(*numbers, self.labels[label]) for *numbers, label in self.older.spans(row).tolist()]


def older_spans(corpus: Corpus, *, settings: dict) -> Path | None:
    """The corpus that this one was updated from, or that stood here before, if its spans were made with `settings`."""
    updated_from = [corpus.manifest["update"]["folder"]] if "update" in corpus.manifest else []
    for folder in map(Path, (*updated_from, corpus.folder.with_name(f"{corpus.folder.name}.previous"))):
        with suppress(BadInput):
            manifest = Corpus(folder).span_manifest
            itself = folder.resolve() == corpus.folder.resolve()  # updated in place: what it was is the previous one
            if manifest["settings"] == settings and intact(folder / "spans", manifest) and not itself:
                return folder
    return None


def places(corpus: Corpus, older: Corpus) -> np.ndarray:
    """For each passage the one of the older corpus with the same title and word pieces, or MISSING: [N]."""
    order = np.argsort(older.passage_keys, kind="stable")
    at, there = find(older.passage_keys[order], corpus.passage_keys)
    return np.where(there, order[at], MISSING)
