"""The metrics file holds every event once, in order, whatever killed or resumed the run."""

import json
import math

import pytest

from realm_train.callbacks.metrics import JsonlLogger
from realm_train.errors import BadInput


def events(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def placed(folder):
    return [(event["stage"], event["step"]) for event in events(folder)]


def log(folder, stage, steps, **metrics):
    logger = JsonlLogger(folder, stage=stage)
    for step in steps:
        logger.log_metrics(metrics or {"loss": float(step)}, step)
    return logger


def test_every_event_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    logger = JsonlLogger(tmp_path / "runs" / "a", stage="ict")
    for step in range(3):
        logger.log_metrics({"loss": 0.5 + step, "epoch": 0}, step)
        last = events(tmp_path / "runs" / "a")[-1]
        assert last.pop("time") > 1e9
        assert last == {"step": step, "stage": "ict", "loss": 0.5 + step}


def test_a_resumed_stage_forgets_what_it_will_write_again(tmp_path):
    log(tmp_path, "ict", range(8))
    log(tmp_path, "pretrain", [2, 4, 6, 8])
    logger = JsonlLogger(tmp_path, stage="pretrain")
    logger.continue_from(4)
    assert placed(tmp_path) == [("ict", step) for step in range(8)] + [("pretrain", 2), ("pretrain", 4)]
    logger.log_metrics({"loss": -6.0}, 6)
    assert [event["loss"] for event in events(tmp_path)][-2:] == [4.0, -6.0]


def test_without_a_word_the_first_event_decides_what_is_written_again(tmp_path):
    log(tmp_path, "pretrain", range(10))
    log(tmp_path, "pretrain", range(6, 12))
    assert placed(tmp_path) == [("pretrain", step) for step in range(12)]


def test_the_checkpoint_s_own_step_is_kept_until_it_is_logged_again(tmp_path):
    first = log(tmp_path, "pretrain", [9, 10])
    first.log_metrics({"index/version": 3, "index/overlap@5": 0.5}, 10)
    again = JsonlLogger(tmp_path, stage="pretrain")
    again.log_metrics({"index/version": 3}, 10)
    again.log_metrics({"loss": 70.0, "retrieval/leaks": 0}, 10)
    kept = [(event["step"], event.get("loss"), event.get("index/version")) for event in events(tmp_path)]
    assert kept == [(9, 9.0, None), (10, None, 3), (10, None, 3), (10, 70.0, None)]


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    log(tmp_path / "whole", "ict", range(20))
    log(tmp_path / "cut", "ict", range(13))
    JsonlLogger(tmp_path / "cut", stage="ict").continue_from(9)
    log(tmp_path / "cut", "ict", range(10, 20))
    strip = [{k: v for k, v in event.items() if k != "time"} for event in events(tmp_path / "cut")]
    assert strip == [{k: v for k, v in event.items() if k != "time"} for event in events(tmp_path / "whole")]


def test_a_line_cut_off_by_a_kill_is_dropped_and_others_are_byte_equal(tmp_path):
    log(tmp_path, "ict", range(3))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 3, "stage": "ict", "ti')
    JsonlLogger(tmp_path, stage="ict").continue_from(2)
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_broken_line_is_named_and_nothing_is_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "stage": "ict"}\nnot json\n{"step": 2, "stage": "ict"}\n')
    before = path.read_bytes()
    with pytest.raises(BadInput, match="metrics.jsonl, line 2"):
        JsonlLogger(tmp_path, stage="ict").continue_from(0)
    assert path.read_bytes() == before


def test_what_is_not_finite_becomes_null_with_one_warning_a_metric(tmp_path):
    logger = JsonlLogger(tmp_path, stage="ict")
    with pytest.warns(RuntimeWarning, match="loss is nan") as caught:
        for step in range(3):
            logger.log_metrics({"loss": math.nan, "retrieval/utility": 1.0}, step)
    assert len(caught) == 1
    assert [(event["loss"], event["retrieval/utility"]) for event in events(tmp_path)] == [(None, 1.0)] * 3
