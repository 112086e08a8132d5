"""The shared corpus with salient spans: its dates, found without a model."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def spanned(corpus_folder, tmp_path_factory):
    """A Corpus with salient spans; not to be written to."""
    from data_prep.spans import prepare_spans
    from data_prep.taggers import DateTagger
    from realm_train.data.corpus import Corpus

    folder = shutil.copytree(corpus_folder, tmp_path_factory.mktemp("spanned") / "corpus")
    prepare_spans(corpus=folder, tagger=DateTagger(), workers=1)
    return Corpus(folder)


def same_batches(one: list, other: list) -> bool:
    """Whether two lists of records hold the same numbers, to the bit."""
    return len(one) == len(other) and all(
        type(a) is type(b) and flat(a) == flat(b) for a, b in zip(one, other, strict=True)
    )


def flat(record) -> dict:
    """A record as plain lists and numbers."""
    values = {name: flat(value) if hasattr(value, "lengths") else value for name, value in vars(record).items()}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in values.items()}
