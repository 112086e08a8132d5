"""Content keys of passages: the same passage has the same key in whatever corpus and at whatever place it stands."""

from __future__ import annotations

import hashlib

import numpy as np


def passage_key(tokens: np.ndarray, *, title_length: int) -> int:
    """The key of a passage by its word pieces [T], of which the first `title_length` are its title's."""
    return hash64(title_length.to_bytes(4, "little") + tokens.astype(np.int64, copy=False).tobytes())


def passage_keys(tokens: np.ndarray, offsets: np.ndarray, title_lengths: np.ndarray) -> np.ndarray:
    """The keys of passages tokens[offsets[i]:offsets[i+1]]: [N]."""
    keys = (
        passage_key(tokens[offsets[row] : offsets[row + 1]], title_length=int(title))
        for row, title in enumerate(title_lengths)
    )
    return np.fromiter(keys, dtype=np.int64, count=len(title_lengths))


def hash64(content: bytes) -> int:
    """63 bits of a hash: it fits a signed 64-bit integer and stays positive.

    That two different of 13 million passages here and as many there have the same has a chance of 1 in 50,000.
    """
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1
