"""What `python -m realm_train.plan` says: seconds and bytes of a rehearsal, brought to the size of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realm_train.evaluation.advice import verdict
from realm_train.evaluation.forecast import ITEM, Schedule, index_memory, still_to_grow, vector_bytes

BATCH_DECAY = 0.966  # of an encoder's growth from batch to batch of 512
BATCH = 512
SPARE = 2  # index versions on disk beside those kept: the shards of a refresh, and the version made from them


def budget(
    facts: Mapping[str, Any],
    *,
    encoding: Any,
    stages: Mapping[str, Any],
    hand_over_seconds: float,
    search_seconds: float,
    structure_bytes: float,
) -> dict[str, Any]:
    """One record, ready for JSON: bytes, seconds and steps, and the verdict in at most five lines.

    The seconds of hand-over and search and the bytes of the search structure are for one passage.
    """
    schedule = _schedule(facts, encoding, stages, hand_over_seconds, search_seconds)
    record = {
        "corpus": {name: facts[name] for name in ("corpus", "passages", "measured_passages", "mean_length", "dim")},
        "disk": _disk(facts, structure_bytes),
        "memory": _memory(facts, encoding, stages, structure_bytes),
        "encoding": _encoding(facts, encoding),
        "refresh": _refresh(schedule) if schedule else None,
        "training": _training(facts, stages, schedule),
    }
    return {**record, "verdict": verdict(record, facts, schedule)}


def _schedule(
    facts: Mapping[str, Any], encoding: Any, stages: Mapping[str, Any], hand_over: float, search: float
) -> Schedule | None:
    if "pretrain" not in stages:
        return None
    count, rate = facts["passages"], encoding.rate.passages_per_second * facts["encoders"]
    step = stages["pretrain"].step_seconds
    step += search * (count - facts["rehearsed_passages"]) * facts["micro_batches"]
    threads = facts["threads"]
    return Schedule(
        mode=facts["mode"],
        every=facts["every"],
        refresh_seconds=count / rate + (0 if facts["mode"] == "rolling" else hand_over * count),
        step_seconds=step,
        step_seconds_beside=step * threads / (threads - facts["lent"]),
        adopt_lag=facts["adopt_lag"],
    )


def _disk(facts: Mapping[str, Any], structure_bytes: float) -> dict[str, int]:
    embeddings = vector_bytes(facts["passages"], facts["dim"], facts["dtype"])
    version = embeddings + round(structure_bytes * facts["passages"])
    return {
        "embeddings": embeddings,
        "index_version": version,
        "index_versions": version * (facts["keep"] + SPARE),
        "store": facts["store_bytes"],
    }


def _memory(
    facts: Mapping[str, Any], encoding: Any, stages: Mapping[str, Any], structure_bytes: float
) -> dict[str, Any]:
    worker = _worker_memory(facts, encoding) if facts["mode"] in ("process", "job") else None
    return {"trainer": _trainer_memory(facts, stages, structure_bytes), "worker": worker}


def _trainer_memory(facts: Mapping[str, Any], stages: Mapping[str, Any], structure_bytes: float) -> dict[str, int]:
    """Of one rank, in bytes: the highest peak of the stages, with what the process will still grow until then."""
    index = _index(facts, facts["passages"], structure_bytes)
    small = _index(facts, facts["rehearsed_passages"], 0.0, swapped=False)
    grown, peak, busiest = 0, 0, ""
    for name, stage in stages.items():
        left = facts["steps"][name] - facts["rehearsed_steps"]
        grown += still_to_grow(stage.peaks[1:], steps_left=left) if facts["device"] == "cpu" else 0
        here = stage.peak + grown
        if name == "pretrain":
            more = max(0, facts["passages"] - facts["rehearsed_passages"]) / facts["passages"]
            here += index["private"] + index["mapped"] - small["private"] - small["mapped"]
            here += round(facts["tokens_bytes"] * more)
        if here > peak:
            peak, busiest = here, name
    gpu = max((stage.gpu_reserved for stage in stages.values()), default=0)
    mapped = index["mapped"] + facts["tokens_bytes"]
    return {
        "host": peak,
        "busiest_stage": busiest,
        "measured": max((stage.peak for stage in stages.values()), default=0),
        "still_to_grow": grown,
        "index_private": index["private"],
        "index_and_tokens_mapped": mapped if "pretrain" in stages else 0,
        "gpu": gpu + index["device"] - small["device"] if gpu else 0,
    }


def _index(
    facts: Mapping[str, Any], count: int, structure_bytes: float, *, swapped: bool | None = None
) -> dict[str, int]:
    """Memory of a rank's share of the index; an approximate one has its structure beside the vectors."""
    swapped = facts["mode"] != "rolling" if swapped is None else swapped
    count //= facts["index_shards"]
    exact = index_memory(
        count,
        facts["dim"],
        rest=facts["dtype"],
        held=facts["index_dtype"],
        on_gpu=facts["device"] != "cpu",
        written=facts["written"],
        swapped=swapped,
    )
    return {**exact, "private": exact["private"] + round(structure_bytes * count) * (2 if swapped else 1)}


def _worker_memory(facts: Mapping[str, Any], encoding: Any) -> dict[str, int]:
    """Of one encoder, in bytes; the batches of a refresh that differ from those measured still add to its peak."""
    share = facts["passages"] / facts["encoders"]
    done = encoding.rate.rounds * encoding.rate.round_passages
    batches = max(1, encoding.rate.round_passages // BATCH)
    left = round(max(0, share - done) / encoding.rate.round_passages)
    on_cpu = encoding.device == "cpu"
    grown = still_to_grow(encoding.peaks, steps_left=left, decay=BATCH_DECAY**batches) if on_cpu else 0
    shard = min(facts["shard_size"], facts["passages"]) * facts["dim"] * (4 + 2 * ITEM[facts["dtype"]])
    host = encoding.peaks[-1] + grown + encoding.tower + shard if encoding.peaks else 0
    return {"host": host, "measured": encoding.peaks[-1] if encoding.peaks else 0, "still_to_grow": grown}


def _encoding(facts: Mapping[str, Any], encoding: Any) -> dict[str, Any]:
    rate = encoding.rate
    return {
        "device": encoding.device,
        "encoders": facts["encoders"],
        "passages_per_second_each": round(rate.passages_per_second, 1),
        "spread": round(rate.spread, 1),
        "rounds": rate.rounds,
        "round_passages": rate.round_passages,
    }


def _refresh(schedule: Schedule) -> dict[str, Any]:
    return {
        "mode": schedule.mode,
        "seconds": round(schedule.refresh_seconds, 2),
        "every": schedule.every,
        "reached": schedule.reached,
        "shortest_every": schedule.shortest_every,
        "shortest_age": schedule.shortest_lag,
        "age_at_adoption": schedule.lag,
        "max_age": schedule.max_age,
    }


def _training(facts: Mapping[str, Any], stages: Mapping[str, Any], schedule: Schedule | None) -> dict[str, Any]:
    seconds = {name: stage.step_seconds for name, stage in stages.items()}
    if schedule:
        seconds["pretrain"] = schedule.mean_step_seconds
    whole = {name: seconds[name] * facts["steps"][name] for name in stages}
    return {
        "device": facts["device"],
        "ranks": facts["ranks"],
        "step_seconds_alone": round(schedule.step_seconds, 4) if schedule else None,
        "step_seconds": {name: round(value, 4) for name, value in seconds.items()},
        "stage_seconds": {name: round(value, 1) for name, value in whole.items()},
    }
