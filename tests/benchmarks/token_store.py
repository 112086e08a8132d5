"""python tests/benchmarks/token_store.py: how long the tokens of 512 random passages of a million take, warm."""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from realm_train.data.corpus import Corpus

PASSAGES, FETCHED, MAX_LENGTH, ROUNDS = 1_000_000, 512, 128, 50


def write_store(folder: Path, rng: np.random.Generator) -> None:
    """A corpus of random tokens: titles of 1 to 8 pieces, some 100 pieces a passage."""
    titles = rng.integers(1, 9, size=PASSAGES).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(titles + rng.integers(60, 132, size=PASSAGES))])
    np.save(folder / "tokens.npy", rng.integers(1000, 30_000, size=offsets[-1]).astype(np.uint16))
    np.save(folder / "token_offsets.npy", offsets)
    np.save(folder / "title_lengths.npy", titles)
    np.save(folder / "documents.npy", np.arange(PASSAGES))
    np.save(folder / "sentences.npy", np.empty((0, 4), dtype=np.int32))
    np.save(folder / "near_duplicates.npy", np.empty(0, dtype=np.int32))
    for name in ("sentence", "near_duplicate"):
        np.save(folder / f"{name}_offsets.npy", np.zeros(PASSAGES + 1, dtype=np.int64))
    tokenizer = {"cls": 101, "sep": 102, "mask": 103, "pad": 0}
    manifest = {"kind": "corpus", "count": PASSAGES, "hash": "random", "tokenizer": tokenizer}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def median_ms(fetch, rng: np.random.Generator) -> float:
    """Median milliseconds of `fetch(ids)` over rounds with new random ids each."""
    seconds = []
    for _ in range(ROUNDS):
        ids = rng.integers(0, PASSAGES, size=FETCHED)
        start = time.perf_counter()
        fetch(ids)
        seconds.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(seconds), 3)


def main() -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder), rng)
        corpus = Corpus(folder)
        np.asarray(corpus.tokens).sum()  # warm: every page is in memory
        figures = {
            "sequences_ms": median_ms(lambda ids: corpus.sequences(ids, MAX_LENGTH), rng),
            "bodies_ms": median_ms(lambda ids: corpus.bodies(ids, MAX_LENGTH), rng),
        }
    print(json.dumps({"benchmark": "token_store", "passages": PASSAGES, "fetched": FETCHED, **figures}))


if __name__ == "__main__":
    main()
