"""Files read as bytes, whatever compresses them, with the position in the file itself for an honest progress bar."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from realm_train.errors import BadInput

OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
BROKEN = (EOFError, gzip.BadGzipFile, lzma.LZMAError)


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The stream of a file's content and the file below it, gzip, bzip2 and xz told by their first bytes.

    Raises BadInput where the file cannot be opened or its compressed content ends early.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise BadInput(f"{path}: cannot be opened ({error.strerror}); check the path") from error
    with raw:
        first = raw.read(6)
        raw.seek(0)
        opener = next((opener for magic, opener in OPENERS.items() if first.startswith(magic)), None)
        try:
            yield (opener(raw) if opener else raw), raw
        except BROKEN as error:
            raise BadInput(f"{path}: its compressed content is broken ({error}); copy or download it again") from error
