"""The refresh process: it publishes while training goes on, is adopted at a step boundary, and ends with it."""

import os
import time

import numpy as np
import pytest
import torch
from tiny_run import series

from realm_train.callbacks import refresh
from realm_train.data.corpus import Corpus
from realm_train.index.snapshot import tower_hash
from realm_train.index.store import IndexStore
from realm_train.tasks.encode import passage_encoder

PROCESS = [
    "refresh=process",
    "stages=[pretrain]",
    "refresh.every=3",
    "refresh.keep=10",
    "checkpoints.every=3",
    "checkpoints.keep=9",
]
FULL_DISK = """
import errno, os, sys
if "realm_train.refresh" in sys.orig_argv:
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")
    os.fsync = full
"""

pytestmark = pytest.mark.filterwarnings("ignore:cold start")


def wait(condition, what):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.02)


@pytest.fixture
def workers(monkeypatch):
    """The refresh processes that runs of this test start."""
    started = []

    class Watched(refresh.WorkerProcess):
        def _start(self):
            started.append(super()._start())
            return started[-1]

    monkeypatch.setattr(refresh, "WorkerProcess", Watched)
    return started


def inline_vectors(run, step, spans_folder):
    """The corpus through the passage tower of a checkpoint, in this process."""
    from realm_train.build import build_towers
    from realm_train.checkpoints import weights_of
    from realm_train.command import compose

    cfg = compose("train", *(run / "words.txt").read_text().split("\n"))
    corpus = Corpus(spans_folder)
    weights = weights_of(run / "checkpoints" / "pretrain" / f"step-{step:06d}.ckpt", "towers")
    tower = build_towers(cfg, corpus, weights).passage
    vectors = passage_encoder(tower, corpus, max_length=cfg.passage_length)(np.arange(corpus.count))
    return tower_hash(tower.state_dict()), vectors.numpy()


def test_versions_are_published_beside_training_and_adopted_between_steps(
    train, overrides, workers, before_step, opened, spans_folder, tmp_path
):
    store = IndexStore(tmp_path / "run" / "index")
    for step, version in ((3, 1), (7, 2)):  # published before this step, opened beside it, adopted after the next
        before_step[step] = lambda version=version: wait(lambda: store.latest() == version, f"version {version}")
        before_step[step + 1] = opened
    run = train(*PROCESS, "refresh.dtype=float32", "pretrain.steps=9")
    assert [(v, store.manifest(v)["trained_step"]) for v in store.versions()] == [(0, 0), (1, 3), (2, 6), (3, 9)]
    versions, ages = dict(series(run, "pretrain", "index/version")), dict(series(run, "pretrain", "index/age_steps"))
    lines = [versions[step] for step in range(9)]  # Lightning's step n, written when n + 1 steps are done
    assert lines == sorted(lines) and set(lines) == {0, 1, 2} and (lines[2], lines[4], lines[8]) == (0, 1, 2)
    assert [ages[step] for step in range(9)] == [step + 1 - 3 * lines[step] for step in range(9)]
    (worker,) = workers
    assert worker.returncode in (0, -15)  # by itself, or told to after two seconds
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)
    (run / "words.txt").write_text("\n".join(overrides))
    torch.set_num_threads(1)
    for version, step in ((1, 3), (2, 6), (3, 9)):
        tower, vectors = inline_vectors(run, step, spans_folder)
        np.testing.assert_array_equal(store.load(version, corpus=Corpus(spans_folder).hash, tower=tower)[1], vectors)


def test_a_worker_with_a_full_disk_dies_loudly_and_training_ends_well_with_the_old_index(
    train, workers, before_step, tmp_path, monkeypatch, capsys
):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FULL_DISK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    before_step[4] = lambda: wait(lambda: workers[0].poll() is not None, "the worker's end")
    run = train(*PROCESS, "pretrain.steps=6", "refresh.final=false")
    assert workers[0].returncode == 2
    said = capsys.readouterr().out
    assert said.count("the refresh process ended with code 2; training goes on with the old index") == 1
    assert f"{run / 'refresh.log'}" in said and "error: " in said and "disk full" in said
    assert IndexStore(run / "index").versions() == [0]
    assert [version for _, version in series(run, "pretrain", "index/version")][-1] == 0
    assert len(series(run, "pretrain", "loss")) == 6 and (run / "checkpoints" / "pretrain" / "DONE").exists()
    assert not [path.name for path in (run / "index").iterdir() if path.name.startswith(".partial")]


def test_a_trainer_that_fails_takes_its_worker_with_it(train, workers, before_step):
    def fail():
        raise RuntimeError("as if the GPU were gone")

    before_step[1] = fail
    with pytest.raises(RuntimeError, match="as if the GPU"):
        train(*PROCESS)
    with pytest.raises(ProcessLookupError):
        os.kill(workers[0].pid, 0)
