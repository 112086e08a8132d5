"""The forecast of a plan from figures that are made up, so that every one of it can be worked out by hand."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
from rich.console import Console

from realm_train.evaluation.advice import duration, size, table
from realm_train.evaluation.budget import budget
from realm_train.evaluation.forecast import DECAY

MB = 10**6
FACTS = {
    "corpus": "data/mine",
    "passages": 100_000,
    "measured_passages": 100_000,
    "mean_length": 64.0,
    "dim": 128,
    "dtype": "float16",
    "index_dtype": None,
    "index_shards": 1,
    "store_bytes": 90 * MB,
    "tokens_bytes": 20 * MB,
    "mode": "process",
    "every": 500,
    "keep": 3,
    "shard_size": 4096,
    "adopt_lag": None,
    "written": False,
    "worker_threads": 1,
    "lent": 1,
    "threads": 2,
    "device": "cpu",
    "ranks": 1,
    "encoders": 1,
    "micro_batches": 1,
    "rehearsed_passages": 2_000,
    "rehearsed_steps": 4,
    "steps": {"ict": 100, "pretrain": 1_000},
    "disk_free": 10**12,
    "memory_available": 10**11,
}
RATE = SimpleNamespace(passages_per_second=1_000.0, spread=10.0, rounds=4, round_passages=1024)
ENCODING = SimpleNamespace(rate=RATE, device="cpu", tower=50 * MB, peaks=(600 * MB,) * 4)
STAGES = {
    "ict": SimpleNamespace(step_seconds=0.5, peak=1500 * MB, peaks=(1500 * MB,) * 4, gpu_reserved=0),
    "pretrain": SimpleNamespace(step_seconds=2.0, peak=2000 * MB, peaks=(2000 * MB,) * 4, gpu_reserved=0),
}


def forecast(stages=STAGES, encoding=ENCODING, structure_bytes: float = 0.0, **facts) -> dict:
    """A run whose process needs no growth and whose search is free."""
    return budget(
        {**FACTS, **facts},
        encoding=encoding,
        stages=stages,
        hand_over_seconds=0.0,
        search_seconds=0.0,
        structure_bytes=structure_bytes,
    )


def test_bytes_are_those_of_vectors_and_versions():
    disk = forecast(structure_bytes=2.0)["disk"]
    assert disk["embeddings"] == 100_000 * 128 * 2
    assert disk["index_version"] == disk["embeddings"] + 200_000 and disk["index_versions"] == 5 * disk["index_version"]


def test_a_trainer_holds_two_versions_and_all_tokens_beyond_what_was_rehearsed():
    trainer = forecast()["memory"]["trainer"]
    row = 128 * 2
    assert trainer["host"] == 2000 * MB + (2 * 100_000 - 2_000) * row + round(20 * MB * 0.98)
    assert trainer["busiest_stage"] == "pretrain" and trainer["gpu"] == 0
    assert trainer["index_and_tokens_mapped"] == 2 * 100_000 * row + 20 * MB


def test_a_rank_of_a_sharded_index_holds_its_share_and_an_approximate_one_its_structure():
    whole, sharded = (forecast(index_shards=shards)["memory"]["trainer"] for shards in (1, 4))
    assert whole["host"] - sharded["host"] == (2 * 75_000 - 1_500) * 128 * 2
    approximate = forecast(structure_bytes=16.0)["memory"]["trainer"]
    assert approximate["host"] - whole["host"] == approximate["index_private"] == 2 * 100_000 * 16


def test_the_busiest_stage_may_be_one_without_an_index():
    stages = {**STAGES, "ict": SimpleNamespace(**{**vars(STAGES["ict"]), "peak": 9000 * MB})}
    trainer = forecast(stages)["memory"]["trainer"]
    assert trainer["host"] == 9000 * MB and trainer["busiest_stage"] == "ict"


def test_what_a_process_grows_by_is_carried_from_stage_to_stage():
    growing = SimpleNamespace(**{**vars(STAGES["ict"]), "peaks": tuple(n * MB for n in (900, 1000, 1100, 1200))})
    trainer = forecast({**STAGES, "ict": growing})["memory"]["trainer"]
    assert trainer["still_to_grow"] == pytest.approx(100 * MB * DECAY / (1 - DECAY), rel=0.01)
    assert trainer["host"] - forecast()["memory"]["trainer"]["host"] == trainer["still_to_grow"]
    on_gpu = forecast({**STAGES, "ict": growing}, device="cuda")["memory"]["trainer"]
    assert on_gpu["still_to_grow"] == 0


def test_a_gpu_holds_the_index_beside_what_was_rehearsed():
    stages = {name: SimpleNamespace(**{**vars(stage), "gpu_reserved": 3000 * MB}) for name, stage in STAGES.items()}
    trainer = forecast(stages, device="cuda", index_dtype="float16", lent=0)["memory"]["trainer"]
    assert trainer["gpu"] == 3000 * MB + (2 * 100_000 - 2_000) * 128 * 2


def test_refresh_and_ages_follow_from_rate_and_step():
    refresh = forecast()["refresh"]
    assert refresh["seconds"] == 100.0
    assert refresh["shortest_age"] == 26  # 100.5 s at 4 s a step: one of two threads is lent
    assert (refresh["reached"], refresh["max_age"]) == (True, 526)
    assert forecast(lent=0)["refresh"]["shortest_age"] == 51
    assert forecast(encoders=4)["refresh"]["seconds"] == 25.0
    assert forecast(passages=1_000_000)["refresh"]["seconds"] == 1000.0


def test_training_seconds_are_steps_with_what_the_refresh_takes():
    training = forecast(every=26)["training"]
    assert training["stage_seconds"] == {"ict": 50.0, "pretrain": 4000.0}
    assert forecast(mode="inline")["training"]["step_seconds"]["pretrain"] == 2.0 + 100 / 500


def test_an_interval_that_cannot_be_reached_is_said_first_with_what_fits():
    lines = forecast(every=10)["verdict"]
    assert lines[0].startswith("refresh.every=10 cannot be reached: a refresh takes 26 steps")
    assert "refresh.every=26" in lines[1] and "plan.devices=3" in lines[1] and "refresh=rolling" in lines[1]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"disk_free": 100 * MB}, ["on disk", "refresh.dtype=float16"]),
        ({"memory_available": 100 * MB}, ["of memory", "micro_batch_size"]),
        ({"adopt_lag": 3}, ["adopt_lag=3 makes training wait", "26"]),
        ({"mode": "rolling"}, ["older than 500 steps", "10% longer"]),
        ({"mode": "inline"}, ["waits for 9%", "500 steps old"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_matters_is_in_the_verdict(facts, said):
    lines = forecast(**facts)["verdict"]
    assert any(all(part in line for part in said) for line in lines), lines


def test_the_verdict_has_at_most_five_lines():
    lines = forecast(disk_free=0, memory_available=0, every=3, adopt_lag=3)["verdict"]
    assert len(lines) == 5 and "on disk" in lines[0] and "of memory" in lines[1]


def test_a_run_without_pretraining_has_no_refresh():
    record = forecast({"ict": STAGES["ict"]}, steps={"ict": 100})
    assert record["refresh"] is None and "no index to keep fresh" in record["verdict"][-1]
    assert record["memory"]["trainer"]["index_and_tokens_mapped"] == 0


def test_record_and_table_can_be_written_down():
    record = json.loads(json.dumps(forecast(), allow_nan=False))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table(record))
    shown = console.export_text()
    for figure in ("100,000", "25.6 MB", "2.07 GB", "1,000", "26 to 526 steps", "pretrain step"):
        assert figure in shown, shown


@pytest.mark.parametrize("count, said", [(0, "0 B"), (999, "999 B"), (8_494_080, "8.49 MB"), (3.4e9, "3.4 GB")])
def test_size(count, said):
    assert size(count) == said


@pytest.mark.parametrize("seconds, said", [(3.456, "3.46 s"), (600, "10 min"), (9000, "2.5 h"), (864000, "10 days")])
def test_duration(seconds, said):
    assert duration(seconds) == said
