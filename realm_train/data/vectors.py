"""Passages with their vectors, for other libraries: a `datasets` folder, and the ids of a search index's rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from realm_train.data.corpus import Corpus

PASSAGES = 65536  # read at once


def save_passages(corpus: Corpus, embeddings: np.ndarray, folder: Path) -> None:
    """Saves id, title, text and the fp32 row of `embeddings` [N, D] of every passage as a `datasets` folder."""
    import datasets
    import pyarrow

    flat = np.asarray(embeddings, dtype=np.float32).reshape(-1)  # fp32 stays in its memory map
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), embeddings.shape[1])
    table = corpus.table.select(["id", "title", "text"]).append_column("embeddings", column)
    datasets.Dataset(table).save_to_disk(folder)


def write_ids(corpus: Corpus, path: Path) -> None:
    """One JSON string a line: line i is the id of passage i."""
    with open(path, "w", encoding="utf-8") as file:
        for first in range(0, corpus.count, PASSAGES):
            ids = corpus.passages(first, min(first + PASSAGES, corpus.count))["id"]
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in ids)
