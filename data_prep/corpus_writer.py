"""The prepared corpus as files (see realm_train.data.corpus), written once, in order, with flat memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from data_prep.growing_array import GrowingArray
from data_prep.packing import SOURCE_COLUMNS, Passages

SHARD_ROWS = 100_000


class CorpusWriter:
    """Appends passages to a corpus folder; a context manager, whose end makes the files whole."""

    def __init__(self, folder: Path, *, token_dtype: str) -> None:
        self.count = 0
        self._folder = folder / "passages"
        self._folder.mkdir()
        self._shard, self._shard_rows = None, 0
        self._text_sha256 = hashlib.sha256()
        grow = {
            "tokens": (token_dtype, None),
            "token_offsets": (np.int64, None),
            "title_lengths": (np.int32, None),
            "passage_keys": (np.int64, None),
            "documents": (np.int64, None),
            "source_documents": (np.int64, len(SOURCE_COLUMNS)),
            "sentences": (np.int32, 4),
            "sentence_offsets": (np.int64, None),
        }
        self._arrays = {name: GrowingArray(folder / f"{name}.npy", *shape) for name, shape in grow.items()}
        self._arrays["token_offsets"].append(np.zeros(1))
        self._arrays["sentence_offsets"].append(np.zeros(1))

    @property
    def tokens(self) -> int:
        """Word pieces written so far."""
        return self._arrays["tokens"].rows

    @property
    def sentences(self) -> int:
        """Sentences written so far."""
        return self._arrays["sentences"].rows

    @property
    def documents(self) -> int:
        """Documents read so far, those without a passage among them."""
        return self._arrays["source_documents"].rows

    def append(self, made: Passages, keep: np.ndarray) -> None:
        """Writes a batch: all of its documents, and the passages for which `keep` (bool [N]) is true."""
        self._arrays["source_documents"].append(sources(made, keep))
        kept = np.flatnonzero(keep).tolist()
        if not kept:
            return
        columns = {
            "tokens": [made.tokens[row] for row in kept],
            "sentences": [made.sentences[row] for row in kept],
        }
        for name, rows in columns.items():
            offsets = self._arrays[name].rows + np.cumsum([len(row) for row in rows])
            self._arrays[f"{name.removesuffix('s')}_offsets"].append(offsets)
            self._arrays[name].append(np.concatenate(rows))
        self._arrays["title_lengths"].append(np.array([made.title_lengths[row] for row in kept]))
        self._arrays["passage_keys"].append(np.array([made.keys[row] for row in kept]))
        self._arrays["documents"].append(np.array([made.documents[row] for row in kept]))
        self._append_rows([made.rows[row] for row in kept])
        self.count += len(kept)

    def _append_rows(self, rows: list[tuple[str, str, str]]) -> None:
        import pyarrow as pa

        documents, titles, texts = zip(*rows, strict=True)
        self._text_sha256.update(
            "".join(f"{title}\0{text}\0" for title, text in zip(titles, texts, strict=True)).encode()
        )
        ids = pa.array(range(self.count, self.count + len(rows)), pa.int64())
        table = pa.table({"id": ids, "document": documents, "title": titles, "text": texts})
        if self._shard is None:
            path = self._folder / f"{self.count:010d}.arrow"  # the name sorts, and says which passage is the first
            self._shard = pa.ipc.new_stream(str(path), table.schema)
        self._shard.write_table(table)
        self._shard_rows += len(rows)
        if self._shard_rows >= SHARD_ROWS:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._shard is not None:
            self._shard.close()
        self._shard, self._shard_rows = None, 0

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(self, *_) -> None:
        self._close_shard()
        for array in self._arrays.values():
            array.close()

    @property
    def content(self) -> str:
        """sha256 of tokens, sentences, titles and texts so far, whatever the batches were."""
        content = hashlib.sha256(self._text_sha256.digest())
        for name in ("tokens", "token_offsets", "title_lengths", "sentences", "sentence_offsets"):
            content.update(self._arrays[name].sha256.digest())
        return content.hexdigest()


def sources(made: Passages, keep: np.ndarray) -> np.ndarray:
    """A batch's documents, columns as SOURCE_COLUMNS, when only the passages for which `keep` is true are: [R, 4]."""
    table = np.array(made.sources, dtype=np.int64).reshape(-1, len(SOURCE_COLUMNS))
    owners = np.repeat(np.arange(len(table)), table[:, 2])
    kept = np.bincount(owners[keep], minlength=len(table))
    table[:, 3] &= kept == table[:, 2]
    table[:, 2] = kept
    return table
