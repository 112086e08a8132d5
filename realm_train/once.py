"""One refresh, here and now: a corpus through the newest passage tower of a run, reusing what the run's index has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from realm_train.build import build_towers, check_lengths, chosen_precision
from realm_train.checkpoints import ORDER, Weights, last_checkpoint, trained_on, weights_of
from realm_train.data.corpus import Corpus
from realm_train.errors import BadInput
from realm_train.index.refresher import Refresher
from realm_train.index.reuse import remember_keys
from realm_train.index.snapshot import tower_hash
from realm_train.index.store import IndexStore
from realm_train.tasks.encode import passage_encoder


def refresh_once(
    *, run: str | Path, corpus: str | Path | None = None, device: str | None = None, threads: int | None = None
) -> tuple[dict, Path]:
    """Publishes `corpus` (None: the run's own) as the run's newest passage tower sees it, and returns the manifest and
    the folder of the version: in the run's index/ if the run was trained on this very corpus, else in index-<name>/.

    Nothing in index/ is pruned. Raises BadInput for a run without a trained tower, and for a corpus that was cut by
    another tokenizer or into longer passages than the run reads.
    """
    run = Path(run)
    cfg = run_config(run)
    opened = Corpus(cfg.corpus if corpus is None else corpus)
    check_lengths(opened, cfg.passage_length)
    own = own_corpus(run, cfg)
    check_tokenizer(opened, own=own)
    checkpoint, weights = newest_towers(run)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if threads:
        torch.set_num_threads(threads)
    tower = build_towers(cfg, opened, weights).passage.to(device)
    refresher = refresher_of(run, cfg, opened, own=own, dim=tower.dim)
    encode = passage_encoder(tower, opened, max_length=cfg.passage_length, precision=chosen_precision(cfg))
    with progress_bar(opened.folder) as progress:
        step = int(checkpoint.stem.removeprefix("step-"))
        manifest = refresher.refresh(encode, step=step, tower=tower_hash(tower.state_dict()), progress=progress)
    return manifest, refresher.store.folder(manifest["version"])


def run_config(run: Path) -> DictConfig:
    """The configuration that a run was trained with; raises BadInput where there is no run."""
    path = run / "config.yaml"
    if not path.exists():
        raise BadInput(f"{path}: not found; run= must be the folder of a run of realm_train.train")
    return OmegaConf.load(path)


def newest_towers(run: Path) -> tuple[Path, Weights]:
    """The newest checkpoint of the last stage that trains towers, and its towers."""
    for stage in reversed(ORDER):
        checkpoint = last_checkpoint(run, stage, required=False)
        if checkpoint is not None and (weights := weights_of(checkpoint, "towers")):
            return checkpoint, weights
    raise BadInput(f"{run / 'checkpoints'}: no checkpoint with a passage tower; train the stage ict or pretrain first")


def own_corpus(run: Path, cfg: DictConfig) -> Corpus | None:
    """The corpus that the run was trained on, also where it was updated in place since; None if it is gone."""
    folder = Path(cfg.corpus)
    for place in (folder, folder.with_name(f"{folder.name}.previous")):
        with suppress(BadInput):
            if (corpus := Corpus(place)).hash == trained_on(run):
                return corpus
    return None


def check_tokenizer(corpus: Corpus, *, own: Corpus | None) -> None:
    """Raises BadInput if the corpus was tokenised otherwise than the run's own."""
    if own is not None and corpus.manifest["tokenizer"]["sha256"] != own.manifest["tokenizer"]["sha256"]:
        names = [one.manifest["tokenizer"]["name"] for one in (corpus, own)]
        raise BadInput(
            f"{corpus.folder}: got word pieces of the tokenizer {names[0]}, expected those of {names[1]}, which the run"
            f" was trained with; prepare the corpus with tokenizer={names[1]}"
        )


def refresher_of(
    run: Path, cfg: DictConfig, corpus: Corpus, *, own: Corpus | None, dim: int, stage: str | None = None
) -> Refresher:
    """The refresher that publishes where the corpus belongs, apart for the towers of an earlier `stage`, and reuses
    rows of every index of the run."""
    is_own = corpus.hash == trained_on(run) and stage is None
    names = [] if stage is None else [stage]
    names += [] if corpus.hash == trained_on(run) else [corpus.folder.resolve().name]
    store = IndexStore(run / "-".join(["index", *names]))
    if own is not None and IndexStore(run / "index").versions():  # which may be older than the keeping of keys
        remember_keys(run / "index", own.hash, own.passage_keys)
    return Refresher(
        store,
        corpus_hash=corpus.hash,
        count=corpus.count,
        dim=dim,
        dtype=cfg.refresh.dtype,
        shard_size=cfg.refresh.shard_size,
        keep=len(store.versions()) + 1 if is_own else cfg.refresh.keep,  # a checkpoint may need any of its own
        keys=corpus.passage_keys,
        reuse_from=[IndexStore(folder) for folder in sorted(run.glob("index*")) if folder != store.root],
        structure=instantiate(cfg.index) if "index" in cfg else None,
    )


@contextmanager
def progress_bar(label: object) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with the time that is left; call what it yields with passages done and their total."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=120) as bar:
        number = bar.add_task(str(label), total=None)
        yield lambda done, total: bar.update(number, completed=done, total=total)


def summary(manifest: dict, folder: Path) -> str:
    """What a person wants to know of the version."""
    reused = f" reused from {manifest['reused_from']}" if manifest["reused"] else " reused"
    return (
        f"{manifest['count']:,} passages as of step {manifest['trained_step']}: {manifest['reused']:,}{reused},"
        f" {manifest['encoded']:,} encoded; {manifest['seconds']} s → {folder}"
    )
