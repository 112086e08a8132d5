"""A .npy file that grows by rows, so that an array larger than memory can be written once, in order."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


class GrowingArray:
    """Appends rows to `path`; `close()` makes it a plain .npy file. `sha256` is of the rows, however batched."""

    def __init__(self, path: Path, dtype: np.dtype | type, columns: int | None = None) -> None:
        self.dtype, self.columns, self.rows = np.dtype(dtype), columns, 0
        self.sha256 = hashlib.sha256()
        self._file = path.open("wb")
        self._header()

    def _header(self) -> None:
        shape = (self.rows,) if self.columns is None else (self.rows, self.columns)
        description = np.lib.format.dtype_to_descr(self.dtype)
        # numpy pads the header for a first axis of any length, so it can be written again in place
        np.lib.format.write_array_header_1_0(self._file, {"descr": description, "fortran_order": False, "shape": shape})

    def append(self, rows: np.ndarray) -> None:
        """Writes `rows` after those that are there."""
        content = np.ascontiguousarray(rows, dtype=self.dtype).tobytes()
        self.sha256.update(content)
        self._file.write(content)
        self.rows += len(rows)

    def close(self) -> None:
        """Writes the final number of rows into the header."""
        self._file.seek(0)
        self._header()
        self._file.close()
