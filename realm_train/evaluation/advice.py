"""A plan in words: the table that a person reads in ten seconds, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from realm_train.evaluation.forecast import Schedule, smaller_plans


def verdict(record: Mapping[str, Any], facts: Mapping[str, Any], schedule: Schedule | None) -> list[str]:
    """At most five lines: what does not fit first, and what would; then what to expect."""
    lines = _shortages(record, facts)
    if schedule is None:
        return [*lines, "This run has no index to keep fresh: its stages do not pretrain."]
    if schedule.reached:
        lines.append(_freshness(schedule))
    else:
        late = f"refresh.every={schedule.every} cannot be reached: a refresh takes {schedule.shortest_every} steps"
        lines.append(f"{late}, and vectors up to {schedule.max_age} steps old would be in use.")
        threads = facts["worker_threads"] if record["encoding"]["device"] == "cpu" else None
        plans = smaller_plans(schedule, encoders=facts["encoders"], threads=threads, mean_length=facts["mean_length"])
        lines.append(f"What fits: {'; or '.join(plans)}.")
    if schedule.lag < schedule.shortest_lag:
        lines.append(f"refresh.adopt_lag={schedule.lag} makes training wait; {schedule.shortest_lag} would not.")
    total = sum(record["training"]["stage_seconds"].values())
    return [*lines, f"The whole run takes about {duration(total)} on devices like these."][:5]


def _shortages(record: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    lines, memory = [], record["memory"]
    wanted, free = record["disk"]["index_versions"], facts["disk_free"]
    if wanted > free:
        lines.append(
            f"The index needs {size(wanted)} on disk, and {size(free)} are free: take refresh.dtype=float16, or a"
            f" smaller refresh.keep than {facts['keep']}."
        )
    host = memory["trainer"]["host"] + (memory["worker"] or {"host": 0})["host"] * (facts["mode"] == "process")
    if facts["memory_available"] is not None and host > facts["memory_available"]:
        lines.append(
            f"Trainer and worker need {size(host)} of memory, and {size(facts['memory_available'])} are free: take a"
            " smaller micro_batch_size, or refresh=job on another node."
        )
    return lines


def _freshness(schedule: Schedule) -> str:
    if schedule.mode == "rolling":
        slower = schedule.mean_step_seconds / schedule.step_seconds - 1
        return f"No vector is older than {schedule.max_age} steps, for steps {slower:.0%} longer."
    if schedule.mode == "inline":
        waiting = schedule.refresh_seconds / (schedule.every * schedule.mean_step_seconds)
        return f"Training waits for {waiting:.0%} of its time; the index is at most {schedule.max_age} steps old."
    return (
        f"refresh.every={schedule.every} is reached: an index is {schedule.lag} steps old at its adoption and at most"
        f" {schedule.max_age}; every={schedule.shortest_every} would be reached too."
    )


def table(record: Mapping[str, Any]) -> Table:
    """What a person reads in ten seconds."""
    shown = Table("", "", "", title="plan", title_justify="left", show_header=False)
    for row in _rows(record):
        shown.add_row(*row)
    return shown


def _rows(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    corpus, disk, encoding, training = (record[name] for name in ("corpus", "disk", "encoding", "training"))
    trainer, worker, refresh = record["memory"]["trainer"], record["memory"]["worker"], record["refresh"]
    per, each = encoding["passages_per_second_each"], encoding["encoders"]
    rows = [
        ("passages", f"{corpus['passages']:,}", f"{corpus['mean_length']:.0f} word pieces on average"),
        ("embeddings", size(disk["embeddings"]), f"{corpus['dim']} wide, a version on disk"),
        ("index on disk", size(disk["index_versions"]), f"{size(disk['index_version'])} a version"),
        ("corpus on disk", size(disk["store"]), "tokens, texts, spans"),
        (
            "trainer, memory a rank",
            size(trainer["host"]),
            f"{size(trainer['index_and_tokens_mapped'])} of it mapped from files; peak in {trainer['busiest_stage']}",
        ),
    ]
    if trainer["gpu"]:
        rows.append(("trainer, GPU memory a rank", size(trainer["gpu"]), "besides the driver's own"))
    if worker:
        rows.append(("worker, memory", size(worker["host"]), f"{each} of them" if each > 1 else ""))
    rows.append(
        (
            "passages a second",
            f"{per * each:,.0f}",
            f"{each} x {per:,.0f} ± {encoding['spread']:,.0f} on {encoding['device']}",
        )
    )
    if refresh:
        rows.append(("refresh", duration(refresh["seconds"]), f"refresh={refresh['mode']}"))
        rows.append(
            ("refresh every", f"{refresh['every']} steps", f"shortest that is reached: {refresh['shortest_every']}")
        )
        rows.append(
            (
                "age of the index",
                f"{refresh['age_at_adoption']} to {refresh['max_age']} steps",
                f"shortest: {refresh['shortest_age']}",
            )
        )
    for name, seconds in training["step_seconds"].items():
        rows.append(
            (
                f"{name} step",
                f"{seconds:.3g} s",
                f"{duration(training['stage_seconds'][name])} in all, {training['ranks']} x {training['device']}",
            )
        )
    return rows


def size(count: int | float) -> str:
    """Bytes as a person says them: 1.5 GB, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def duration(seconds: int | float) -> str:
    """Seconds as a person says them."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
