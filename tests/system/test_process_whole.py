"""Whole runs whose index comes from another process: the same again to the bit, killed or not; a job; approximate."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from test_resume import ROOT, kill_at, start
from tiny_run import equal, facts, series, weights

from realm_train.index.store import IndexStore

pytestmark = pytest.mark.filterwarnings("ignore:cold start")
LAG = ["stages=[pretrain]", "refresh.every=4", "refresh.adopt_lag=3", "refresh.keep=9", "refresh.final=false"]
KEPT = ["checkpoints.every=1", "checkpoints.keep=99"]


def trained_steps(run):
    """The weights that the index was of, step by step."""
    store = IndexStore(run / "index")
    return [
        store.manifest(int(version))["trained_step"] for _, version in sorted(series(run, "pretrain", "index/version"))
    ]


def test_a_run_with_a_lag_is_the_same_again_also_killed_between_snapshot_and_adoption(train, overrides, tmp_path):
    words = [*LAG, *KEPT, "refresh=process", "pretrain.steps=10"]
    run = tmp_path / "killed"
    kill_at(start(run, overrides, *words), run, "pretrain", 5)  # six steps are done; the snapshot is of step 4
    assert IndexStore(run / "index").latest_step() in (0, 4)
    train(*words, "ckpt_path=last", run="killed")
    whole = train(*words, run="whole")
    assert facts(run, "pretrain") == facts(whole, "pretrain")
    assert equal(weights(run, "pretrain"), weights(whole, "pretrain"))
    assert {0, 4} == set(trained_steps(whole))
    swapped = [step for step, version in series(whole, "pretrain", "index/version") if version == 1]
    assert min(swapped) == 6  # Lightning's step 6 is the seventh: snapshot at 4, lag of 3


def test_a_job_started_before_the_run_keeps_its_index_fresh_and_ends_with_it(train, tmp_path):
    run = tmp_path / "run"
    with open(tmp_path / "job.txt", "w") as said:
        command = [sys.executable, "-m", "realm_train.refresh", f"run={run}", "poll_seconds=0.1"]
        job = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
    try:
        while "waiting for training to start" not in (tmp_path / "job.txt").read_text():
            assert job.poll() is None
            time.sleep(0.05)
        train(*LAG, "refresh=job", "pretrain.steps=8")
        assert job.wait(timeout=30) == 0, (tmp_path / "job.txt").read_text()
    finally:
        job.kill()
        job.wait()
    assert {0, 4} == set(trained_steps(run))


@pytest.mark.slow
def test_a_job_whose_trainer_is_dead_ends_by_itself(train, overrides, tmp_path):
    run = tmp_path / "run"
    training = start(run, overrides, *LAG, "refresh=job", "refresh.adopt_lag=null", "pretrain.steps=999")
    kill_at(training, run, "pretrain", 2)
    command = [sys.executable, "-m", "realm_train.refresh", f"run={run}", "poll_seconds=0.1", "patience_seconds=2"]
    assert subprocess.run(command, cwd=ROOT, timeout=120).returncode == 0
    assert not (run / "snapshots" / "DONE").exists()


@pytest.mark.slow
@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_an_approximate_index_comes_from_the_process_too_and_says_how_exact_it_is(train, factory):
    pytest.importorskip("faiss")
    run = train(*LAG, "refresh=process", "pretrain.steps=8", "index=faiss", f"index.factory='{factory}'")
    assert {0, 4} == set(trained_steps(run))
    recalls = [recall for _, recall in series(run, "pretrain", "index/recall")]
    assert len(recalls) >= 3 and min(recalls) >= 0.95
    search = IndexStore(run / "index").manifest(1)["search"]
    assert (search["kind"], search["factory"]) == ("faiss", factory) and search["files"].keys() == {"index.faiss"}
