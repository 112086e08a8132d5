"""The span step's shards: one file for a run of passages, and all of them as the arrays of a corpus."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.alignment import Row
from data_prep.growing_array import GrowingArray
from realm_train.data.corpus import SPAN_COLUMNS


def write_shard(path: Path, *, rows: Sequence[Row], counts: Sequence[int], report: dict) -> None:
    """Writes aside and renames: a shard is complete or not there. `counts` are the spans of every passage."""
    labels = sorted({row[-1] for row in rows})
    numbers = [(*row[:-1], labels.index(row[-1])) for row in rows]
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    with aside.open("wb") as file:
        np.savez(
            file,
            spans=np.array(numbers, dtype=np.int32).reshape(-1, len(SPAN_COLUMNS)),
            counts=np.array(counts, dtype=np.int64),
            report=np.array(json.dumps({**report, "labels": labels})),
        )
    aside.rename(path)


def merge_shards(paths: Sequence[Path], out: Path) -> dict:
    """Writes spans.npy and span_offsets.npy into `out`, and returns what the manifest says of them."""
    reports = [_report(path) for path in paths]
    labels = sorted({label for report in reports for label in report["labels"]})
    spans, offsets = GrowingArray(out / "spans.npy", np.int32, len(SPAN_COLUMNS)), [np.zeros(1, np.int64)]
    by_label, skipped, without = np.zeros(len(labels), np.int64), Counter(), 0
    for path, report in zip(paths, reports, strict=True):
        with np.load(path) as shard:
            rows, counts = shard["spans"], shard["counts"]
        renamed = np.array([labels.index(label) for label in report["labels"]], dtype=np.int32)
        rows[:, -1] = renamed[rows[:, -1]]
        spans.append(rows)
        offsets.append(offsets[-1][-1] + np.cumsum(counts))
        by_label += np.bincount(rows[:, -1], minlength=len(labels))
        skipped.update(report["skipped"])
        without += int((counts == 0).sum())
    spans.close()
    np.save(out / "span_offsets.npy", np.concatenate(offsets))
    return {
        "count": spans.rows,
        "labels": labels,
        "models": reports[0]["models"],
        "counts": {
            "kept": spans.rows,
            "by_label": dict(zip(labels, by_label.tolist(), strict=True)),
            "skipped": dict(sorted(skipped.items())),
            "passages_without_span": without,
            "passages_carried": sum(report.get("carried", 0) for report in reports),
        },
    }


def _report(path: Path) -> dict:
    with np.load(path) as shard:
        return json.loads(str(shard["report"]))
