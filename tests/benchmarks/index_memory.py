"""What opening a version adds to a process's memory, as a share of the version's bytes on disk.

    python tests/benchmarks/index_memory.py count=1000000 out=index_memory.jsonl

Each case is opened, and searched with 16 questions, in a fresh process. `opened` and `searched` are what its resident
memory (RSS, pages of the mapped file included) has grown by, `peak` is the most that it grew by on the way.
"""

import multiprocessing
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from apparatus.report import Report, settings

from realm_train.index.exact import Exact
from realm_train.index.faiss import Faiss
from realm_train.index.store import IndexStore
from realm_train.ports import SearchStructure

DIM, K, BATCH = 128, 16, 16
CASES = {
    "exact, fp32": ("float32", Exact()),
    "exact, fp16": ("float16", Exact()),
    "exact, fp16 on disk, fp32 in memory": ("float16", Exact(dtype="float32")),
    "faiss IVF1024,SQfp16": ("float16", Faiss(factory="IVF1024,SQfp16", recall_floor=0.0, train=1)),
}


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process in memory now (VmRSS), or at most since `forget_peak` (VmHWM)."""
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def grown(root: str, structure: SearchStructure) -> dict[str, int]:
    """Bytes more than before: after opening, after a search, and at the most."""
    torch.set_num_threads(1)
    questions = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(0))
    # What any search takes, and not this version: libraries' code and their buffers.
    tiny, folder = np.eye(DIM, dtype=np.float32), Path(tempfile.mkdtemp(dir=root))
    rehearsal = Exact() if structure.kind == "exact" else Faiss(factory="IVF1,SQfp16", recall_floor=0.0)
    rehearsal.load(tiny, folder, rehearsal.build(tiny, folder), torch.device("cpu")).search(questions, K)
    before = resident()
    forget_peak()
    _, index = IndexStore(root).open(0, structure, corpus="c")
    opened = resident() - before
    index.search(questions, K)
    return {"opened": opened, "searched": resident() - before, "peak": resident("VmHWM") - before}


def publish(root: str, count: int, dtype: str, structure: SearchStructure) -> int:
    """Writes a version of random vectors, and returns its bytes."""
    generator = np.random.default_rng(0)
    pieces = (
        generator.standard_normal((min(65536, count - start), DIM), dtype=np.float32).astype(dtype)
        for start in range(0, count, 65536)
    )
    facts = {"trained_step": 0, "tower": "t", "corpus": "c", "seconds": 0.0}
    IndexStore(root).publish(pieces, count=count, dim=DIM, dtype=dtype, structure=structure, **facts)
    return sum(path.stat().st_size for path in Path(root, "v000000").rglob("*") if path.is_file())


def main() -> None:
    told = settings(count=1_000_000, cases=[""], out="")
    report = Report("index_memory", told)
    for name, (dtype, structure) in CASES.items():
        if told["cases"] != [""] and name.split(",")[0] not in told["cases"]:
            continue
        with tempfile.TemporaryDirectory() as root:
            size = publish(root, told["count"], dtype, structure)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                figures = pool.apply(grown, (root, structure))
        shares = {what: round(figure / size, 3) for what, figure in figures.items()}
        report.say(case=name, count=told["count"], megabytes=round(size / 1e6, 1), shares=shares)
    report.write()


if __name__ == "__main__":
    main()
