"""Milliseconds a search: ours, numpy (matmul and argpartition), faiss IndexFlatIP, at 10k and 100k x 128.

    python tests/benchmarks/exact_search.py out=exact_search.json threads=1 rounds=15

Rounds are interleaved, so that a busy machine slows all of them alike; medians and ratios to ours are reported.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from realm_train.index.exact import ExactIndex

DIM, K, EXCLUDED = 128, 8, 8
COUNTS, BATCHES = (10_000, 100_000), (1, 16, 256)


def by_numpy(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Ids of the K best, best first."""
    scores = queries @ vectors.T
    ids = np.argpartition(-scores, K, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(scores, ids, axis=1), axis=1)
    return np.take_along_axis(ids, order, axis=1)


def searches(vectors: np.ndarray, queries: np.ndarray, exclude: np.ndarray) -> dict:
    """Every contestant as a function that returns the ids it finds."""
    ours, flat = ExactIndex(vectors), faiss.IndexFlatIP(DIM)
    flat.add(vectors)
    tensor, barred = torch.from_numpy(queries), torch.from_numpy(exclude)
    return {
        "ours": lambda: ours.search(tensor, K).ids.numpy(),
        "ours, 8 excluded": lambda: ours.search(tensor, K, barred).ids.numpy(),
        "numpy": lambda: by_numpy(vectors, queries),
        "faiss": lambda: flat.search(queries, K)[1],
    }


def measure(count: int, batch: int, rounds: int) -> dict:
    """Median milliseconds of each, after a check that all find the same."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((count, DIM), dtype=np.float32)
    queries = generator.standard_normal((batch, DIM), dtype=np.float32)
    contestants = searches(vectors, queries, generator.integers(0, count, (batch, EXCLUDED)))
    for name in ("numpy", "faiss"):
        np.testing.assert_array_equal(contestants[name](), contestants["ours"](), err_msg=name)
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, search in contestants.items():
            started = time.perf_counter()
            search()
            times[name].append(1000 * (time.perf_counter() - started))
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    ratios = {f"{name} / ours": round(medians[name] / medians["ours"], 2) for name in ("numpy", "faiss")}
    return {"count": count, "batch": batch, "k": K, "milliseconds": medians, "ratios": ratios}


def main() -> None:
    settings = {"out": "exact_search.json", "threads": "1", "rounds": "15"}
    settings |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    torch.set_num_threads(int(settings["threads"]))
    faiss.omp_set_num_threads(int(settings["threads"]))
    results = []
    for count in COUNTS:
        for batch in BATCHES:
            results.append(measure(count, batch, int(settings["rounds"])))
            print(json.dumps(results[-1]))
    versions = {"torch": torch.__version__, "faiss": faiss.__version__, "numpy": np.__version__}
    report = {"threads": int(settings["threads"]), "dim": DIM, "versions": versions, "results": results}
    Path(settings["out"]).write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
