"""Questions a second and recall of every kind of index, calibrated, beside exact search: 128 wide, k = 16, 8 excluded.

    python tests/benchmarks/search.py counts=10000,100000,1000000 threads=2 rounds=9 out=search.jsonl
    python tests/benchmarks/search.py counts=1000000 kinds=exact,ivf,sq8      # HNSW and PQ take long to build

Vectors have 24 directions of their own and noise in all 128, as a tower's have; questions come from the same world.
Calibration sees 512 of them and asks for recall `target`; `judged` is recall over 1,000 others, by id. Rounds of all
kinds are interleaved, so that a busy machine slows all of them alike; medians. ScaNN joins where it is installed.
"""

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from apparatus.report import Report, settings

from realm_train.index.exact import Exact, ExactIndex
from realm_train.index.faiss import Faiss
from realm_train.index.scann import Scann
from realm_train.index.store import IndexStore
from realm_train.ports import Index, SearchStructure

DIM, OWN, K, EXCLUDED, JUDGED = 128, 24, 16, 8, 1000
BATCHES = (16, 256)


def world(count: int, seed: int) -> np.ndarray:
    """Vectors with OWN directions of their own, the same ones for every seed."""
    directions = np.random.default_rng(0).standard_normal((OWN, DIM), dtype=np.float32)
    generator = np.random.default_rng(seed)
    latent = generator.standard_normal((count, OWN), dtype=np.float32)
    return latent @ directions + generator.standard_normal((count, DIM), dtype=np.float32)


def structures(count: int, target: float) -> dict[str, tuple[str, SearchStructure]]:
    """Kinds by name, each with the dtype that its embeddings have at rest; four cells to the root of the passages."""
    cells, wanted = round(4 * count**0.5), {"recall_target": target, "recall_floor": 0.0}
    kinds = {
        "exact": ("float32", Exact()),
        "exact16": ("float16", Exact()),
        "ivf": ("float16", Faiss(factory=f"IVF{cells},Flat", **wanted)),
        "ivfpq": ("float16", Faiss(factory=f"IVF{cells},PQ32", **wanted)),
        "hnsw": ("float16", Faiss(factory="HNSW32", **wanted)),
        "sq8": ("float16", Faiss(factory="SQ8", **wanted)),
    }
    if importlib.util.find_spec("scann"):
        kinds["scann"] = ("float16", Scann(**wanted))
    return kinds


def published(folder: Path, vectors: np.ndarray, dtype: str, structure: SearchStructure) -> tuple[dict, Index]:
    """What the manifest says of the search, with the bytes of the version, and the index as training would open it."""
    facts = {"trained_step": 0, "tower": "t", "corpus": "c", "seconds": 0.0, "queries": world(512, seed=2)}
    store = IndexStore(folder)
    pieces = (vectors[start : start + 65536].astype(dtype) for start in range(0, len(vectors), 65536))
    store.publish(pieces, count=len(vectors), dim=DIM, dtype=dtype, structure=structure, **facts)
    manifest, index = store.open(0, structure, corpus="c")
    bytes_ = sum(path.stat().st_size for path in store.folder(0).rglob("*") if path.is_file())
    said = {name: manifest["search"].get(name) for name in ("factory", "recall", "effort")}
    return {**said, "build_seconds": manifest["search"]["seconds"], "megabytes": round(bytes_ / 1e6, 1)}, index


def judged(index: Index, exact: ExactIndex) -> float:
    """Recall@K on questions that calibration has not seen."""
    questions = torch.from_numpy(world(JUDGED, seed=3))
    found, truth = index.search(questions, K).ids, exact.search(questions, K).ids
    return round((truth[:, :, None] == found[:, None, :]).any(dim=2).float().mean().item(), 4)


def paces(indexes: dict[str, Index], count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median questions a second of every kind for every batch size."""
    seconds = {(name, batch): [] for name in indexes for batch in BATCHES}
    for round_ in range(rounds):
        for batch in BATCHES:
            questions = torch.from_numpy(world(batch, seed=4 + round_))
            exclude = torch.randint(0, count, (batch, EXCLUDED), generator=torch.Generator().manual_seed(round_))
            for name, index in indexes.items():
                started = time.perf_counter()
                index.search(questions, K, exclude)
                seconds[name, batch].append(time.perf_counter() - started)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {name: {str(batch): round(batch / medians[name, batch], 1) for batch in BATCHES} for name in indexes}


def main() -> None:
    told = settings(counts=[10_000, 100_000], kinds=[""], target=0.95, threads=2, rounds=9, out="")
    torch.set_num_threads(told["threads"])
    report = Report("search", told)
    for count in told["counts"]:
        vectors = world(count, seed=1)
        exact, opened = ExactIndex(vectors), {}
        with tempfile.TemporaryDirectory() as folder:
            for name, (dtype, structure) in structures(count, told["target"]).items():
                if name in told["kinds"] or told["kinds"] == [""]:
                    opened[name] = published(Path(folder, name), vectors, dtype, structure)
            pace = paces({name: index for name, (_, index) in opened.items()}, count, told["rounds"])
            for name, (facts, index) in opened.items():
                report.say(
                    count=count, kind=name, questions_per_second=pace[name], judged=judged(index, exact), **facts
                )
    report.write()


if __name__ == "__main__":
    main()
