"""`python -m realm_train.plan experiment=…`: what a run will need and how fresh its index can be, before it is paid.

The worker's and the trainer's own code runs for some seconds in a temporary folder, with the real model, corpus and
batches; what grows with the number of passages is added by arithmetic (evaluation/forecast.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from realm_train.build import build_towers, chosen_precision
from realm_train.callbacks.adoption import refresher
from realm_train.callbacks.refresh_plan import RefreshPlan
from realm_train.checkpoints import last_checkpoint, weights_of
from realm_train.command import command, resolved
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.evaluation.advice import table
from realm_train.evaluation.budget import budget
from realm_train.evaluation.footprint import footprint, forget_peak
from realm_train.fitting import quiet
from realm_train.index.store import IndexStore
from realm_train.stages import STAGES
from realm_train.tasks.encode import passage_encoder
from realm_train.tasks.encoding_rate import EncodingRate, encoding_rate
from realm_train.tasks.rehearsal import Rehearsal, rehearse, seconds_of

PASSAGES = 2048  # of the index in the rehearsal: the rest is arithmetic
ROWS = 32768  # of the index that is published, opened and searched to time it
MICRO_BATCHES = 4  # of a rehearsed step; one of more is extrapolated
HELDOUT = 16  # sentences evaluated in the rehearsal: one batch, as in a run


@command("plan")
def main(cfg: DictConfig) -> None:
    """Measures, forecasts, and prints a table with a verdict, or with `json=true` one JSON object."""
    record = plan(cfg)
    if cfg.json:
        print(json.dumps(record, indent=2))
        return
    console = Console()
    console.print(table(record))
    for line in record["verdict"]:
        console.print(line, markup=False, highlight=False)


def plan(cfg: DictConfig) -> dict[str, Any]:
    """The forecast as one record; see `evaluation.budget`."""
    corpus, refresh = Corpus(cfg.corpus), instantiate(cfg.refresh)
    if cfg.plan.dim is not None:
        cfg.model.towers.dim = cfg.plan.dim
    check_devices(cfg, refresh)
    if cfg.plan.steps < 3:
        raise BadInput(f"plan.steps: got {cfg.plan.steps}, expected at least 3: the first warms up, two are compared")
    threads = cfg.threads or torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="plan-") as folder, silence():
        with cpu_threads(refresh.threads if refresh.beside else threads):
            encoding = measure_encoding(cfg, corpus, refresh)
        with cpu_threads(threads):
            handing_over = measure_hand_over(cfg, corpus, refresh, Path(folder), dim=encoding.dim)
            stages = rehearse_stages(cfg, corpus, Path(folder))
    given = facts(cfg, corpus, refresh, threads=threads, dim=encoding.dim)
    return budget(given, encoding=encoding, stages=stages, **handing_over)


def check_devices(cfg: DictConfig, refresh: RefreshPlan) -> None:
    """Raises BadInput for a device that this machine does not have: it could not be measured."""
    have = torch.cuda.device_count()
    try:
        wanted = torch.device(refresh.device)
    except RuntimeError as error:
        raise BadInput(f"refresh.device: got {refresh.device!r}, expected cpu or cuda:1, say") from error
    if refresh.beside and wanted.type == "cuda" and (wanted.index or 0) >= have:
        raise BadInput(
            f"refresh.device: got {refresh.device}, but this machine has {have} CUDA devices; plan where the refresh"
            " will run, or with refresh.device=cpu"
        )
    if cfg.trainer.accelerator in ("gpu", "cuda") and not have:
        raise BadInput(f"trainer.accelerator: got {cfg.trainer.accelerator}, but this machine has no CUDA device")


def trainer_device(cfg: DictConfig) -> str:
    """Where training will run."""
    return "cuda" if cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"


def ranks(cfg: DictConfig) -> int:
    """Training processes over all nodes."""
    devices = cfg.trainer.devices
    if isinstance(devices, str) or devices == -1:
        devices = max(1, torch.cuda.device_count())
    return int(len(devices) if OmegaConf.is_list(devices) else devices) * int(cfg.trainer.get("num_nodes", 1))


@dataclass(frozen=True)
class Encoding:
    """The worker's measure: passages a second, and its process's memory in bytes, round by round; `dim` is how wide
    the tower's vectors are, which a configuration may leave to the encoder."""

    rate: EncodingRate
    device: str
    tower: int
    peaks: tuple[int, ...]
    dim: int


def measure_encoding(cfg: DictConfig, corpus: Corpus, refresh: RefreshPlan) -> Encoding:
    """Encodes samples with the real tower, where and with the threads that the refresh will have."""
    device = refresh.device if refresh.beside else trainer_device(cfg)
    tower = build_towers(cfg, corpus).passage.to(device)
    encode = passage_encoder(tower, corpus, max_length=cfg.passage_length, precision=chosen_precision(cfg))
    forget_peak()  # of another plan in this process
    peaks: list[int] = []
    rate = encoding_rate(
        encode, corpus, seconds=cfg.plan.seconds, on_round=lambda: peaks.append(footprint().get("peak", 0))
    )
    return Encoding(rate, device, sum(p.nbytes for p in tower.state_dict().values()), tuple(peaks), tower.dim)


def measure_hand_over(
    cfg: DictConfig, corpus: Corpus, refresh: RefreshPlan, folder: Path, *, dim: int
) -> dict[str, Any]:
    """What publishing, opening and searching cost a passage, from random vectors and the run's own kind of index."""
    rows = min(ROWS, corpus.count)
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))
    store, structure = IndexStore(folder / "random" / "index"), instantiate(cfg.index)
    work = refresher(store, first(corpus, rows), dim, refresh, structure)
    device = trainer_device(cfg)

    def hand_over() -> Any:
        manifest = work.refresh(lambda ids: vectors[np.asarray(ids)], step=0, tower="0" * 64)
        return store.open(manifest["version"], structure, corpus=corpus.hash, device=device)[1]

    started = time.perf_counter()
    index = hand_over()
    seconds = time.perf_counter() - started
    published = store.folder(store.latest())
    extra = sum(f.stat().st_size for f in published.iterdir() if f.name not in ("embeddings.npy", "manifest.json"))
    queries, k = vectors[: cfg.pretrain.micro_batch_size].to(device), cfg.pretrain.k + cfg.pretrain.margin
    return {
        "hand_over_seconds": seconds / rows,
        "search_seconds": seconds_of(lambda: index.search(queries, k)) / rows,
        "structure_bytes": extra / rows,
    }


def first(corpus: Corpus, count: int) -> Corpus:
    """The corpus with an index of only its first passages; sentences still come from all of it."""
    if (corpus.folder / "spans").exists():
        corpus.span_counts()  # opened while the count is whole
    view = object.__new__(Corpus)  # a copy of the object would open the folder anew
    vars(view).update(vars(corpus), count=min(count, corpus.count))
    return view


def rehearse_stages(cfg: DictConfig, corpus: Corpus, folder: Path) -> dict[str, Rehearsal]:
    """Some real steps of every stage, in order, in this process."""
    unknown = set(cfg.stages) - set(STAGES)
    if unknown:
        raise BadInput(f"stages: got {sorted(unknown)}, expected some of {list(STAGES)}")
    weights = {} if cfg.retriever is None else weights_of(last_checkpoint(Path(cfg.retriever)), "towers")
    done, run = {}, folder / "run"
    run.mkdir()
    for stage in cfg.stages:
        smaller, factor = rehearsed(cfg, stage, run)
        seen = first(corpus, PASSAGES) if stage == "pretrain" else corpus
        work = partial(STAGES[stage], smaller, run, seen, weights)
        short = rehearse(work, metrics=run / "metrics.jsonl", name=stage)
        done[stage] = replace(short, step_seconds=short.step_seconds * factor)
        weights = weights | weights_of(last_checkpoint(run, stage), "towers", "reader")
        shutil.rmtree(run / "checkpoints" / stage)
    return done


def rehearsed(cfg: DictConfig, stage: str, run: Path) -> tuple[DictConfig, float]:
    """The configuration with few steps on one device, and how much longer a step of the run is than a step of it."""
    micro, world = cfg[stage].micro_batch_size, ranks(cfg)
    micro_batches = max(1, cfg[stage].batch_size // (micro * world))
    taken = min(MICRO_BATCHES, micro_batches)
    smaller = OmegaConf.create(resolved(cfg))
    with open_dict(smaller):
        smaller.update(run=str(run), wandb=None, log_every=1_000_000, checkpoints={"every": 1_000_000, "keep": 1})
        smaller.trainer.update(devices=1, num_nodes=1)
        smaller[stage].update(steps=cfg.plan.steps, batch_size=micro * taken)
        smaller.ict.heldout = min(cfg.ict.heldout, cfg.ict.micro_batch_size)
        smaller.pretrain.update(heldout=min(cfg.pretrain.heldout, HELDOUT), evaluate_every=None)
        kept = {name: cfg.refresh[name] for name in ("_target_", "dtype", "shard_size")}
        smaller.refresh = {**kept, "mode": "inline", "every": 1_000_000, "final": False}
        smaller.index = {"_target_": "realm_train.index.exact.Exact"}
    return smaller, micro_batches / taken


def facts(cfg: DictConfig, corpus: Corpus, refresh: RefreshPlan, *, threads: int, dim: int) -> dict[str, Any]:
    """What the forecast takes from the configuration, as plain values."""
    count = int(cfg.plan.passages or corpus.count)
    scale = count / corpus.count
    device, world = trainer_device(cfg), ranks(cfg)
    micro_batches = max(1, cfg.pretrain.batch_size // (cfg.pretrain.micro_batch_size * world))
    run = Path(cfg.run).absolute()
    there = next(folder for folder in (run, *run.parents) if folder.exists())
    return {
        "corpus": str(corpus.folder),
        "passages": count,
        "measured_passages": corpus.count,
        "mean_length": float(np.diff(corpus.token_offsets).mean()),
        "dim": dim,
        "dtype": refresh.dtype,
        "index_dtype": cfg.index.get("of", cfg.index).get("dtype"),
        "index_shards": world if "shards" in cfg.index else 1,
        "store_bytes": int(sum(f.stat().st_size for f in corpus.folder.rglob("*") if f.is_file()) * scale),
        "tokens_bytes": int(corpus.tokens.nbytes * scale),
        "mode": refresh.mode,
        "every": refresh.every,
        "keep": refresh.keep,
        "shard_size": refresh.shard_size,
        "adopt_lag": refresh.adopt_lag,
        "written": refresh.mode == "rolling" or refresh.write_back,
        "worker_threads": refresh.threads,
        "lent": min(threads - 1, refresh.threads)
        if refresh.mode == "process" and device == refresh.device == "cpu"
        else 0,
        "threads": threads,
        "device": device,
        "ranks": world,
        "encoders": cfg.plan.devices if refresh.beside else world,
        "micro_batches": micro_batches,
        "rehearsed_passages": min(PASSAGES, corpus.count),
        "rehearsed_steps": cfg.plan.steps,
        "steps": {stage: cfg[stage].steps for stage in cfg.stages},
        "disk_free": shutil.disk_usage(there).free,
        "memory_available": available_memory(),
    }


def available_memory() -> int | None:
    """Bytes that processes can still take on this machine, if the kernel says so."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hides what stages print and warn of: a rehearsal learns nothing, and says so loudly."""
    quiet()
    with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as nowhere:
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nowhere):
            yield


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """So many threads for torch's products, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
