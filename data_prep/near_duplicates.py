"""Which passages share a sentence or a long run of word pieces: what must not be retrieved for each other.

Fingerprints of a passage are the hashes of its sentences and the winnowed hashes of its runs of SHINGLE pieces
(Schleimer, Wilkerson and Aiken, 2003): of every WINDOW runs in a row the smallest hash is kept, so two passages that
share SHINGLE + WINDOW - 1 pieces in a row share a fingerprint. Fingerprints and pairs are cut into ranges on disk, and
one range at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from data_prep.growing_array import GrowingArray
from data_prep.workers import in_order

SHINGLE, WINDOW = 12, 5
CHUNK_PASSAGES = 20_000  # fingerprinted at once
RANGE_ENTRIES = 8_000_000  # fingerprints sorted at once, about
ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Rules:
    """Sentences count from `min_sentence` pieces on; a fingerprint of more than `max_common` passages does not."""

    min_sentence: int = 6
    max_common: int = 50


def find_near_duplicates(
    folder: Path, scratch: Path, *, rules: Rules, workers: int, done: Callable[[int], None] = lambda passages: None
) -> dict[str, int]:
    """Writes `near_duplicates.npy` and its offsets into a corpus folder and returns counts; `scratch` holds the ranges.

    Near duplicates are symmetric, sorted, and never the passage itself.
    """
    count = len(np.load(folder / "token_offsets.npy", mmap_mode="r")) - 1
    starts = range(0, count, CHUNK_PASSAGES)
    entries = 0
    for start, size in zip(
        starts, in_order(Fingerprinter(folder, scratch, rules), starts, workers=workers), strict=True
    ):
        entries += size
        done(min(start + CHUNK_PASSAGES, count))
    ranges = 1 + entries // RANGE_ENTRIES
    pairing = Pairing(scratch, chunks=len(starts), ranges=ranges, rules=rules)
    common = sum(in_order(pairing, range(ranges), workers=min(workers, ranges)))
    pairs, having = write_pairs(folder, scratch, count=count, ranges=ranges)
    return {"pairs": pairs // 2, "passages_with_one": having, "common_fingerprints": common}


@dataclass(frozen=True)
class Fingerprinter:
    """Writes the sorted fingerprints of a chunk of passages, and returns how many there are."""

    folder: Path
    scratch: Path
    rules: Rules

    def __call__(self, start: int) -> int:
        offsets = np.load(self.folder / "token_offsets.npy", mmap_mode="r")
        end = min(start + CHUNK_PASSAGES, len(offsets) - 1)
        titles = np.load(self.folder / "title_lengths.npy", mmap_mode="r")[start:end]
        first, last = int(offsets[start]), int(offsets[end])
        tokens = np.load(self.folder / "tokens.npy", mmap_mode="r")[first:last]
        bodies = offsets[start:end] + titles - first  # where each begins
        ends = offsets[start + 1 : end + 1] - first
        sentence_offsets = np.load(self.folder / "sentence_offsets.npy", mmap_mode="r")[start : end + 1]
        rows = slice(int(sentence_offsets[0]), int(sentence_offsets[-1]))
        sentences = np.load(self.folder / "sentences.npy", mmap_mode="r")[rows, 2:].astype(np.int64)
        owners = np.repeat(np.arange(end - start), np.diff(sentence_offsets))
        spans = sentences + bodies[owners, None]
        found = [
            sentence_fingerprints(tokens, spans, owners, min_sentence=self.rules.min_sentence),
            shingle_fingerprints(tokens, bodies, ends),
        ]
        hashes, passages = (np.concatenate(column) for column in zip(*found, strict=True))
        hashes, passages = unique_pairs(hashes, passages + start)
        chunk = start // CHUNK_PASSAGES
        np.save(self.scratch / f"hashes-{chunk:06d}.npy", hashes)
        np.save(self.scratch / f"passages-{chunk:06d}.npy", passages.astype(np.int32))
        return len(hashes)


def sentence_fingerprints(
    tokens: np.ndarray, spans: np.ndarray, owners: np.ndarray, *, min_sentence: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the sentences tokens[a:b], (a, b) in spans [S, 2], that are long enough, and their passages."""
    lengths = spans[:, 1] - spans[:, 0]
    long = lengths >= min_sentence
    spans, owners, lengths = spans[long], owners[long], lengths[long]
    if not len(spans):
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    begins = np.cumsum(lengths) - lengths
    inside = np.arange(lengths.sum()) - np.repeat(begins, lengths)
    values = scattered(tokens[np.repeat(spans[:, 0], lengths) + inside]) * powers(int(lengths.max()))[inside]
    hashes = np.add.reduceat(values, begins)
    return scattered(hashes + lengths.astype(np.uint64)), owners


def shingle_fingerprints(tokens: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Winnowed hashes of the bodies tokens[start:end], and their passages."""
    last = len(tokens) - SHINGLE - WINDOW + 2  # windows that fit
    if last <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    values = scattered(np.asarray(tokens))
    hashes = np.zeros(len(values) - SHINGLE + 1, dtype=np.uint64)
    for position, power in enumerate(powers(SHINGLE)):
        hashes += values[position : position + len(hashes)] * power
    hashes = scattered(hashes)
    smallest = reduce(np.minimum, (hashes[position : position + last] for position in range(WINDOW)))
    # a window belongs to the passage in whose body all of its pieces lie
    counts = np.maximum(ends - starts - (SHINGLE + WINDOW - 2), 0)
    owners = np.repeat(np.arange(len(starts)), counts)
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    windows = smallest[np.repeat(starts, counts) + inside]
    changes = np.ones(len(windows), dtype=bool)  # the same minimum again is no news
    changes[1:] = (windows[1:] != windows[:-1]) | (owners[1:] != owners[:-1])
    return scattered(windows[changes]), owners[changes]  # scattered again: minima crowd near 0, ranges must not


def scattered(values: np.ndarray) -> np.ndarray:
    """A one-to-one mixing of 64-bit integers: neighbours end far apart (the finaliser of SplitMix64)."""
    mixed = values.astype(np.uint64) + ODD
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def powers(count: int) -> np.ndarray:
    """ODD to the power of 0, 1, ..., modulo 2^64: the place of a piece in its run."""
    return np.cumprod(np.concatenate([[np.uint64(1)], np.full(count - 1, ODD)]), dtype=np.uint64)


def unique_pairs(hashes: np.ndarray, passages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different (hash, passage), sorted by hash, then passage."""
    order = np.lexsort((passages, hashes))
    hashes, passages = hashes[order], passages[order]
    different = np.ones(len(hashes), dtype=bool)
    different[1:] = (hashes[1:] != hashes[:-1]) | (passages[1:] != passages[:-1])
    return hashes[different], passages[different]


@dataclass(frozen=True)
class Pairing:
    """Writes the sorted pairs of passages that share a fingerprint of one range; returns how many were too common."""

    scratch: Path
    chunks: int
    ranges: int
    rules: Rules

    def __call__(self, part: int) -> int:
        hashes, passages = self._range(part)
        begins = (
            np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else np.empty(0, int)
        )
        sizes = np.diff(np.append(begins, len(hashes)))
        common = sizes > self.rules.max_common
        usable = np.repeat(~common & (sizes > 1), sizes)
        np.save(
            self.scratch / f"pairs-{part:06d}.npy", pairs_within(hashes[usable], passages[usable].astype(np.uint64))
        )
        return int(common.sum())

    def _range(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        bounds = [
            (np.uint64(edge * (1 << 64) // self.ranges) if edge < self.ranges else None) for edge in (part, part + 1)
        ]
        hashes, passages = [], []
        for chunk in range(self.chunks):
            of_chunk = np.load(self.scratch / f"hashes-{chunk:06d}.npy", mmap_mode="r")
            low, high = (len(of_chunk) if edge is None else int(np.searchsorted(of_chunk, edge)) for edge in bounds)
            hashes.append(of_chunk[low:high])
            passages.append(np.load(self.scratch / f"passages-{chunk:06d}.npy", mmap_mode="r")[low:high])
        hashes, passages = np.concatenate(hashes), np.concatenate(passages)
        order = np.argsort(hashes, kind="stable")  # chunks come in order, so passages stay sorted
        return hashes[order], passages[order]


def pairs_within(hashes: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """All pairs, in both orders, of passages with the same hash, as sorted different `first << 32 | second`."""
    pairs, here, distance = [np.empty(0, dtype=np.uint64)], np.arange(len(hashes)), 1
    while True:
        here = here[here + distance < len(hashes)]
        here = here[hashes[here] == hashes[here + distance]]
        if not len(here):
            return np.unique(np.concatenate(pairs))
        first, second = passages[here], passages[here + distance]
        shift = np.uint64(32)
        pairs.append(np.unique(np.concatenate([(first << shift) | second, (second << shift) | first])))
        distance += 1


def write_pairs(folder: Path, scratch: Path, *, count: int, ranges: int) -> tuple[int, int]:
    """Merges the ranges' pairs into the corpus's arrays; the number of ordered pairs, and of passages in one."""
    near = GrowingArray(folder / "near_duplicates.npy", np.int32)
    offsets = GrowingArray(folder / "near_duplicate_offsets.npy", np.int64)
    offsets.append(np.zeros(1))
    having = 0
    for start, pairs in merged(scratch, count=count, ranges=ranges):
        sizes = np.bincount(
            (pairs >> np.uint64(32)).astype(np.int64) - start, minlength=min(CHUNK_PASSAGES, count - start)
        )
        offsets.append(near.rows + np.cumsum(sizes))
        near.append(pairs & np.uint64(0xFFFFFFFF))
        having += int((sizes > 0).sum())
    near.close()
    offsets.close()
    return near.rows, having


def merged(scratch: Path, *, count: int, ranges: int) -> Iterator[tuple[int, np.ndarray]]:
    """For every chunk of passages its first number and the different pairs that begin in it, sorted."""
    parts = [np.load(scratch / f"pairs-{part:06d}.npy", mmap_mode="r") for part in range(ranges)]
    for start in range(0, count, CHUNK_PASSAGES):
        edges = [np.uint64(edge << 32) for edge in (start, start + CHUNK_PASSAGES)]
        slices = [part[slice(*np.searchsorted(part, edges))] for part in parts]
        yield start, np.unique(np.concatenate(slices))
