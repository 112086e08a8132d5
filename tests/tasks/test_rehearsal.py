"""What is read off a rehearsal: the seconds between steps, and the peak after each."""

from __future__ import annotations

import json
import time

import pytest

from realm_train.tasks.rehearsal import median_gap, rehearse, seconds_of, step_times


def test_steps_are_the_losses_of_their_stage(tmp_path):
    events = [
        {"stage": "ict", "step": 0, "time": 1.0, "loss": 3.0},
        {"stage": "pretrain", "step": 0, "time": 5.0, "heldout/loss": 7.0},
        {"stage": "pretrain", "step": 0, "time": 7.0, "loss": 3.0},
        {"stage": "pretrain", "step": 1, "time": 10.0, "loss": 3.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert step_times(tmp_path / "metrics.jsonl", "pretrain") == [7.0, 10.0]


def test_one_slow_step_does_not_count():
    assert median_gap([0.0, 9.0, 10.0, 11.5, 12.5]) == pytest.approx(1.25)


def test_a_stage_is_timed_without_what_precedes_its_first_step(tmp_path):
    def stage():
        time.sleep(0.5)
        for step in range(4):
            time.sleep(0.1)
            with open(tmp_path / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"stage": "ict", "step": step, "time": time.time(), "loss": 1.0}) + "\n")

    found = rehearse(stage, metrics=tmp_path / "metrics.jsonl", name="ict")
    assert 0.1 <= found.step_seconds < 0.4
    assert len(found.peaks) == 4 and list(found.peaks) == sorted(found.peaks) and found.peaks[-1] <= found.peak


def test_the_fastest_round_counts():
    naps = iter([0.2, 0.01, 0.2])
    assert 0.01 <= seconds_of(lambda: time.sleep(next(naps))) < 0.1
