"""Where a run comes from: code, versions, machine, command, data, and what each stage took, in `provenance.json`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from realm_train.errors import BadInput

PACKAGES = (
    "realm-train",
    "torch",
    "pytorch-lightning",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "hydra-core",
    "faiss-cpu",
    "faiss-gpu",
    "spacy",
)


def start(
    folder: str | Path,
    *,
    command: str,
    data: Mapping[str, Any],
    prepare: Mapping[str, float] | None = None,
) -> dict:
    """Write a run's `provenance.json`; where there is one (a resumed run) keep it and note the new start in `resumed`.

    `data` names what was read (hashes, counts); `prepare` gives the seconds that each preparation step took.
    """
    folder = Path(folder)
    now = {**_code(), "command": command, "started": round(time.time(), 3)}
    record = read(folder)
    if record:
        record.setdefault("resumed", []).append({**now, "versions": versions(), "hardware": hardware()})
    else:
        record = {**now, "versions": versions(), "hardware": hardware(), "data": dict(data), "stages": {}}
    if prepare:
        record["stages"]["prepare"] = dict(prepare)
    _write(folder, record)
    return record


def stage_done(folder: str | Path, stage: str, *, seconds: float, steps: int) -> None:
    """Note what a stage took in all: `seconds` of wall clock for `steps` optimiser steps."""
    record = read(Path(folder))
    record.setdefault("stages", {})[stage] = {"seconds": round(seconds, 3), "steps": steps}
    _write(Path(folder), record)


def read(folder: Path) -> dict:
    """The run's `provenance.json`, empty where there is none yet."""
    path = folder / "provenance.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}); move it away, and a new one is written") from error


def versions() -> dict[str, str]:
    """Python's version and those of the installed packages that a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """What this process runs on; `cores` are those it may use, `memory_gib` is the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "host": platform.system() + " " + platform.machine(),
        "cpu": _cpu_model(),
        "cores": cores,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus],
        "threads": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _code() -> dict[str, Any]:
    """The commit of the code that runs, and whether it was changed since; both None where it is in no repository."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _write(folder: Path, record: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".provenance.json.{os.getpid()}"
    aside.write_text(json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    os.replace(aside, folder / "provenance.json")
