"""Forecast memory against a real run's: `plan`, then training with a refresh process, both in processes of their own.

    python tests/benchmarks/memory_forecast.py corpus=data/vital steps=30 out=memory_forecast.json

Prints one JSON line a configuration: for trainer and worker the forecast peak, the measured one (VmHWM), their ratio,
and the highest proportional set size seen (PSS: pages that several processes map are shared out among them). More
`steps` of every stage let caches of the allocator and of kernels fill up; the forecast is for that very number.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from realm_train.evaluation.footprint import footprint

CONFIGURATIONS = {
    "quickstart": ["experiment=quickstart"],
    "scratch, 512 wide, deep reader": [
        "model=scratch",
        "stages=[pretrain]",
        "model.towers.dim=512",
        "model.encoder.hidden_size=256",
        "model.encoder.intermediate_size=1024",
        "model.encoder.num_attention_heads=4",
        "model.reader.layers=8",
        "pretrain.batch_size=16",
        "pretrain.micro_batch_size=16",
        "refresh.shard_size=2048",
        "refresh.dtype=float32",
        "passage_length=96",
    ],
}
SHORT = ["refresh=process", "refresh.final=false", "pretrain.heldout=64", "ict.heldout=64"]


def command(entry: str, *words: str) -> list[str]:
    """A command of the project in this very Python."""
    return [sys.executable, "-m", f"realm_train.{entry}", *words]


def children(pid: int) -> list[int]:
    """Processes that this one has started and that are still there."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue
    return found


def proportional(pid: int) -> int:
    """Proportional set size in bytes, 0 if the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def is_worker(pid: int) -> bool:
    """Whether a process is a run's refresh process."""
    try:
        return b"realm_train.refresh" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def watched(words: list[str]) -> dict[str, dict[str, int]]:
    """Trains, and returns the highest `peak` and `pss` of trainer and worker in bytes."""
    process = subprocess.Popen(command("train", *words), stdout=subprocess.DEVNULL)
    seen = {name: {"peak": 0, "pss": 0} for name in ("trainer", "worker")}
    while process.poll() is None:
        workers = [("worker", pid) for pid in children(process.pid) if is_worker(pid)]
        for name, pid in [("trainer", process.pid), *workers]:
            seen[name]["peak"] = max(seen[name]["peak"], footprint(pid).get("peak", 0))
            seen[name]["pss"] = max(seen[name]["pss"], proportional(pid))
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"training ended with code {process.returncode}")
    return seen


def compare(name: str, words: list[str], steps: int) -> dict:
    """Forecast, measured, and their ratio for one configuration."""
    with tempfile.TemporaryDirectory() as folder:
        lengths = [f"{stage}.steps={steps}" for stage in ("ict", "mlm", "pretrain")]
        words = [*words, *SHORT, *lengths, f"refresh.every={max(1, steps // 2 - 1)}", f"run={folder}/run"]
        started = time.perf_counter()
        planned = json.loads(subprocess.check_output(command("plan", *words, "json=true")))
        seconds = time.perf_counter() - started
        measured = watched(words)
    result = {"configuration": name, "steps": steps, "plan_seconds": round(seconds, 1)}
    for part, seen in measured.items():
        forecast = planned["memory"][part]["host"]
        ratio = round(forecast / seen["peak"], 3) if seen["peak"] else None
        result[part] = {"forecast": forecast, "measured": seen["peak"], "ratio": ratio, "pss": seen["pss"]}
    return result


def main() -> None:
    settings = {"corpus": "data/vital", "steps": "30", "only": "", "out": "memory_forecast.json"}
    settings |= dict(argument.split("=", 1) for argument in sys.argv[1:])
    results = []
    for name, words in CONFIGURATIONS.items():
        if settings["only"] in name:
            results.append(compare(name, [*words, f"corpus={settings['corpus']}"], int(settings["steps"])))
            print(json.dumps(results[-1]), flush=True)
    Path(settings["out"]).write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
