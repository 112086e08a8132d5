"""Any data set of the `datasets` library: from the hub, streamed, or from local Parquet, Arrow or saved folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data_prep.sources import Document, Source
from data_prep.step import fingerprint
from realm_train.errors import BadInput

FORMATS = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".jsonl": "json", ".json": "json"}


@dataclass
class Hub(Source):
    """Rows of a data set; `id`, `title`, `text` name its columns: `id: null` numbers rows, `title: null` is none."""

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = True
    id: str | None = "id"
    title: str | None = "title"
    text: str = "text"

    def _files(self) -> list[Path]:
        path = Path(self.path)
        return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]

    def inputs(self) -> list[dict]:
        if Path(self.path).exists():
            return [fingerprint(file) for file in self._files()]
        commit = None
        with suppress(Exception):  # without the hub the name and the revision must do
            from huggingface_hub import HfApi

            commit = HfApi().dataset_info(self.path, revision=self.revision, timeout=10).sha
        return [{"name": self.path, "commit": commit}]

    def __iter__(self) -> Iterator[Document]:
        rows = self._rows()
        wanted = [column for column in (self.id, self.title, self.text) if column is not None]
        for number, row in enumerate(rows):
            if number == 0 and (missing := [column for column in wanted if column not in row]):
                raise BadInput(
                    f"{self.path}: no column {', '.join(map(repr, missing))}, there are {', '.join(map(repr, row))};"
                    " name yours with source.id=, source.title=, source.text="
                )
            self.done += 1
            yield Document(
                id=str(number if self.id is None else row[self.id]),
                title="" if self.title is None else str(row[self.title] or ""),
                text=str(row[self.text] or ""),
            )

    def _rows(self):
        try:
            rows = self._loaded()
        except Exception as error:  # the library raises dozens of kinds, and each means that the data set cannot be had
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BadInput(
                f"{self.path}: cannot be loaded ({reason}); check source.path, source.name and source.split"
            ) from error
        split = (rows.info.splits or {}).get(self.split) if rows.info else None
        self.total = len(rows) if hasattr(rows, "__len__") else split and split.num_examples
        return rows

    def _loaded(self):
        import datasets

        path = Path(self.path)
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            saved = datasets.load_from_disk(str(path))
            return saved[self.split] if isinstance(saved, datasets.DatasetDict) else saved
        options = {"split": self.split, "streaming": self.streaming}
        if path.is_file():
            if path.suffix not in FORMATS:
                raise ValueError(f"got a {path.suffix or 'nameless'} file, expected {', '.join(FORMATS)} or a folder")
            return datasets.load_dataset(FORMATS[path.suffix], data_files={self.split: str(path)}, **options)
        return datasets.load_dataset(self.path, self.name, revision=self.revision, **options)
