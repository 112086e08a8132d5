"""Killed and resumed equals uninterrupted; a finished run is left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_run import equal, events, facts, series, weights

ROOT = Path(__file__).resolve().parents[2]
LONG = ["ict.steps=16", "pretrain.steps=13", "refresh.every=4", "checkpoints.every=3", "pretrain.evaluate_every=5"]

pytestmark = pytest.mark.filterwarnings("ignore:cold start")


def start(run, overrides, *words):
    """A training process; what it says goes to its own file."""
    with open(run.parent / "said.txt", "a") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "realm_train.train", f"run={run}", *overrides, *words],
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def kill_at(process, run, stage, step):
    """SIGKILL once this step of the stage stands in metrics.jsonl."""
    until = time.monotonic() + 90
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and f'"step": {step}, "stage": "{stage}"' in metrics.read_text()):
        assert process.poll() is None and time.monotonic() < until, (run.parent / "said.txt").read_text()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture
def uninterrupted(train):
    return train(*LONG, run="uninterrupted")


def test_killed_in_each_stage_and_resumed_equals_uninterrupted(uninterrupted, train, overrides, tmp_path, capsys):
    run = tmp_path / "killed"
    for stage, step in (("ict", 4), ("pretrain", 7)):
        kill_at(start(run, overrides, *LONG, "ckpt_path=last"), run, stage, step)
        assert list((run / "checkpoints" / stage).glob("step-*.ckpt"))
        assert not (run / "checkpoints" / stage / "DONE").exists()
    assert "ict: going on from" in (tmp_path / "said.txt").read_text()
    train(*LONG, "ckpt_path=last", run="killed")
    assert "pretrain: going on from" in capsys.readouterr().out
    for stage, steps in (("ict", 16), ("pretrain", 13)):
        assert [step for step, _ in series(run, stage, "loss")] == list(range(steps))
        assert facts(run, stage) == facts(uninterrupted, stage)
        assert equal(weights(run, stage), weights(uninterrupted, stage))
    for version in (uninterrupted / "index").glob("v*"):  # the killed run keeps those of its checkpoints besides
        ours, theirs = (np.load(folder / "index" / version.name / "embeddings.npy") for folder in (run, uninterrupted))
        np.testing.assert_array_equal(ours, theirs)
    assert len(json.loads((run / "provenance.json").read_text())["resumed"]) == 2


def test_a_finished_run_is_left_alone_and_says_so(train, refused, capsys):
    run = train()
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert train("ckpt_path=last") == run
    assert capsys.readouterr().out.startswith(f"{run}: done already")
    assert {path: path.read_bytes() for path in kept} == kept
    line = refused()
    assert "holds a run already" in line and "ckpt_path=last" in line
    assert {path: path.read_bytes() for path in kept} == kept


def test_more_steps_continue_a_run_that_was_stopped_early(train):
    run = train("stages=[ict]", "ict.steps=2")
    (run / "checkpoints" / "ict" / "DONE").unlink()
    train("stages=[ict]", "ict.steps=4", "ckpt_path=last")
    assert [step for step, _ in series(run, "ict", "loss")] == [0, 1, 2, 3]
    assert [event["step"] for event in events(run, "ict") if "loss" in event] == [0, 1, 2, 3]


def test_a_checkpoint_that_was_cut_short_is_named_and_the_one_before_goes_on(train, refused):
    run = train("stages=[ict]", "ict.steps=4")
    (run / "checkpoints" / "ict" / "DONE").unlink()
    last, before = run / "checkpoints" / "ict" / "step-000004.ckpt", run / "checkpoints" / "ict" / "step-000002.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    line = refused("stages=[ict]", "ict.steps=4", "ckpt_path=last")
    assert str(last) in line and "move it away" in line and before.exists()
    last.rename(run / "damaged.ckpt")
    train("stages=[ict]", "ict.steps=4", "ckpt_path=last")
    assert [step for step, _ in series(run, "ict", "loss")] == [0, 1, 2, 3] and last.exists()
