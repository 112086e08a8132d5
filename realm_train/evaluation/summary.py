"""A run in numbers: what goes into `report.json`, and the one sentence that says what was learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from realm_train.evaluation.run import Number, Run
from realm_train.evaluation.sentences import signed

LATE = 20  # logging events behind a value "at the end" of a noisy curve


def summarise(run: Run) -> dict[str, Any]:
    """The report's scalars by subject; a value that the run does not have is left out."""
    return {
        "run": run.name,
        "finished": run.finished,
        "verdict": verdict(run)[0],
        "seconds": seconds(run),
        "commit": run.provenance.get("commit"),
        "dirty": run.provenance.get("dirty"),
        "hardware": run.provenance.get("hardware", {}),
        "ict": _known(_ict(run)),
        "realm": _known(_realm(run)),
        "index": _known(_index(run)),
        **({"open_qa": _open_qa(run)} if run.fine_tuning else {}),
    }


def seconds(run: Run) -> dict[str, Number]:
    """Wall clock by stage, and in all; a stage that has not ended counts from its first to its last event."""
    stages = dict(run.provenance.get("stages", {}))
    spent: dict[str, Number] = dict(stages.pop("prepare", {}))
    for stage in ("ict", "mlm", "pretrain", "open_qa"):
        times = [event["time"] for event in run.events if event["stage"] == stage]
        if stage in stages:
            spent[stage] = stages[stage]["seconds"]
        elif times:
            spent[stage] = round(max(times) - min(times), 3)
    return {**spent, "total": round(sum(spent.values()), 3)}


def utility_error(record: dict[str, Any]) -> Number | None:
    """Standard error of a held-out evaluation's utility in nats a mask, over its sentences; None where it cannot be
    told."""
    gains = _gains(record)
    return None if gains is None else _ratio_error(gains, record.get("masks_by_example"))


def rise_error(first: dict[str, Any], last: dict[str, Any]) -> Number | None:
    """Standard error of what utility rose by between two evaluations of the same sentences, sentence by sentence."""
    before, after = _gains(first), _gains(last)
    if before is None or after is None or len(before) != len(after):
        return None
    return _ratio_error([b - a for a, b in zip(before, after, strict=True)], last.get("masks_by_example"))


def _gains(record: dict[str, Any]) -> list[Number] | None:
    """What retrieval gives each sentence, in nats."""
    loss, null = record.get("loss_by_example"), record.get("loss_null_by_example")
    if not loss or not null or len(loss) < 2 or len(loss) != len(null):
        return None
    return [b - a for a, b in zip(loss, null, strict=True)]


def _ratio_error(gains: Sequence[Number], masks: Sequence[int] | None) -> Number:
    """Standard error of sum(gains) / sum(masks): that of gain - ratio * masks."""
    masks = masks or [1] * len(gains)
    ratio, n = sum(gains) / sum(masks), len(gains)
    squares = sum((gain - ratio * count) ** 2 for gain, count in zip(gains, masks, strict=True))
    return math.sqrt(squares * n / (n - 1)) / sum(masks)


def verdict(run: Run) -> tuple[str, str]:
    """(`learnt` | `unclear` | `nothing` | `unfinished`, the sentence that says so)."""
    if run.fine_tuning:
        return _fine_tuned(run)
    if len(run.heldout) < 2:
        return "unfinished", "Too early to tell: this run has not been evaluated before and after pretraining yet."
    first, last = run.heldout[0]["metrics"], run.heldout[-1]["metrics"]
    start, end = first["utility"], last["utility"]
    error = utility_error(run.heldout[-1]) or 0.0
    rise = rise_error(run.heldout[0], run.heldout[-1]) or 0.0
    if not all(map(math.isfinite, (start, end, last["loss"], last["loss_null"]))):
        return "nothing", "It broke: a held-out loss is not a number any more."
    if last["loss"] >= last["loss_null"] or end <= 0:
        return "nothing", (
            f"Retrieval does not help: with its passages the reader loses {last['loss']:.2f} nats a hidden word piece,"
            f" with the empty passage alone {last['loss_null']:.2f}."
        )
    if end <= start:
        return "nothing", (
            f"The retriever learnt nothing that helps: what retrieval gives the reader went from {signed(start)} to"
            f" {signed(end)} nats a hidden word piece."
        )
    if end - start <= 2 * rise or end <= 2 * error:
        return "unclear", (
            f"No clear gain: retrieval gives the reader {signed(end)} ± {error:.2f} nats a hidden word piece"
            f" ({signed(start)} before training), which could be chance."
        )
    return "learnt", (
        f"It learnt to look things up: what it retrieves makes each hidden word piece {math.exp(end):.2f} times as"
        f" likely ({math.exp(start):.2f} times before training)."
    )


def _fine_tuned(run: Run) -> tuple[str, str]:
    """How fine-tuning went; what it is worth, evaluation says, which has intervals."""
    found = _open_qa(run)
    if not run.finished:
        return "unfinished", "Too early to tell: this fine-tuning has not ended yet."
    if "exact_match" not in found:
        return "unclear", "Fine-tuned, without a look at held-out questions: python -m realm_train.evaluate tells more."
    match, recall = found["exact_match"], found["recall@5"]
    return "unclear", (
        f"Fine-tuned: of the held-out questions it answers {match['end']:.1%} ({match['start']:.1%} before training),"
        f" and finds an answer in 5 passages for {recall['end']:.1%} ({recall['start']:.1%});"
        " python -m realm_train.evaluate tells it with intervals."
    )


def _open_qa(run: Run) -> dict[str, Any]:
    """The first and the last look at held-out questions, and the loss."""
    loss = run.curve("open_qa", "loss")
    found: dict[str, Any] = {"loss_start": loss[0][1], "loss_end": _mean(loss[-LATE:])} if loss else {}
    looks = {"exact_match": "qa_exact_match", **{f"recall@{k}": f"qa_recall@{k}" for k in (1, 5, 20)}}
    for name, metric in looks.items():
        if curve := run.curve("open_qa", f"heldout/{metric}"):
            found[name] = {"start": curve[0][1], "end": curve[-1][1]}
    return found


def _ict(run: Run) -> dict[str, Any]:
    held, train = run.curve("ict", "heldout/ict_accuracy"), run.curve("ict", "ict/accuracy")
    loss = run.curve("ict", "loss")
    return {
        "accuracy": held[-1][1] if held else _mean(train[-LATE:]),
        "accuracy_on": "held-out documents" if held else "training batches" if train else None,
        "accuracy_kept": _mean(run.curve("ict", "ict/accuracy_kept")[-LATE:]),
        "accuracy_masked": _mean(run.curve("ict", "ict/accuracy_masked")[-LATE:]),
        "loss_start": loss[0][1] if loss else None,
        "loss_end": _mean(loss[-LATE:]),
    }


def _realm(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    leaks = run.curve("pretrain", "retrieval/leaks")
    if leaks:
        found["leaks"] = int(sum(value for _, value in leaks))
    records = {"start": run.heldout[0], "end": run.heldout[-1]} if run.heldout else {}
    for when, record in records.items():
        if when == "start" or len(run.heldout) > 1:
            metrics = record["metrics"]
            for name in ("loss", "loss_null", "utility", "p_null", "entropy"):
                found[f"{name}_{when}"] = metrics.get(name)
            found[f"utility_{when}_error"] = utility_error(record)
            for k in (1, 5, 20):
                found.setdefault(f"recall@{k}", {})[when] = metrics.get(f"recall@{k}")
    if len(run.heldout) > 1:
        found["utility_rise"] = found["utility_end"] - found["utility_start"]
        found["utility_rise_error"] = rise_error(run.heldout[0], run.heldout[-1])
    if run.heldout:
        found["sentences"] = len(run.heldout[-1].get("loss_by_example", [])) or None
        found["step"] = run.heldout[-1]["step"]
    return found


def _index(run: Run) -> dict[str, Any]:
    versions = {version for _, version in run.adoptions()} | {manifest["version"] for manifest in run.manifests}
    ages = [age for _, age in run.curve("pretrain", "index/age_steps")]
    refreshes = run.curve("pretrain", "index/refresh_seconds")
    overlap = {k: run.curve("pretrain", f"index/overlap@{k}") for k in (1, 5, 20)}
    return {
        "versions": len(versions),
        "max_age_steps": int(max(ages)) if ages else None,
        "mean_age_steps": sum(ages) / len(ages) if ages else None,
        "refresh_seconds": _mean(refreshes),
        "recall": min((recall for _, recall in run.curve("pretrain", "index/recall")), default=None),
        **{f"overlap@{k}": curve[-1][1] for k, curve in overlap.items() if curve},
    }


def _mean(curve: Sequence[tuple[int, Number]]) -> Number | None:
    return sum(value for _, value in curve) / len(curve) if curve else None


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Those that are there; what is not a number (nan) is not."""
    return {name: value for name, value in values.items() if value is not None and value == value}
