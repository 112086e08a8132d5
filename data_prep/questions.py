"""python -m data_prep.questions source=trivia out=data/questions/trivia: questions into splits, a JSONL file each."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from data_prep.passages import listed
from data_prep.question_sources import Candidate, QuestionSource, question_key
from data_prep.show import show_example
from data_prep.step import run_step
from realm_train.command import command
from realm_train.data.questions import read_questions
from realm_train.errors import BadInput

FORMAT = 1  # of the files: questions of another format are made again
SHOWN_ANSWERS, SHOWN_GROUPS = 10, 10


def prepare_questions(*, source: QuestionSource, out: str | Path) -> tuple[dict, bool]:
    """Prepares the folder `out` of questions and returns its manifest and whether it had to be made.

    The same question from two places is one, with the answers of both. Raises BadInput if no question comes out.
    """

    def work(aside: Path) -> dict:
        candidates = merged(source)
        if not candidates:
            raise BadInput(f"no question comes out ({listed(source.skipped)}); check what the source reads")
        return {"count": len(candidates), **write_splits(aside, candidates, source=source)}

    settings = {"format": FORMAT, **source.settings()}
    return run_step(name="questions", kind="questions", out=out, inputs=source.inputs(), settings=settings, work=work)


def merged(source: QuestionSource) -> list[Candidate]:
    """The source's questions, each once, in its order."""
    found: dict[tuple[str, bool], Candidate] = {}
    for candidate in source:
        question = candidate.question
        key = (question_key(question.text), question.regex)
        if key not in found:
            found[key] = candidate
            continue
        source.changed["duplicate_question"] += 1
        first = found[key]
        answers = tuple(dict.fromkeys([*first.question.answers, *question.answers]))
        found[key] = first._replace(question=replace(first.question, answers=answers))
    return list(found.values())


def write_splits(folder: Path, candidates: list[Candidate], *, source: QuestionSource) -> dict:
    """Writes a file for every split that has questions, and returns the manifest's fields about them."""
    rows: dict[str, list[str]] = {}
    groups: dict[str, Counter] = {}
    for question, key, group in candidates:
        split = split_of(key, source.splits)
        rows.setdefault(split, []).append(json.dumps(question.row(), ensure_ascii=False))
        groups.setdefault(group, Counter())[split] += 1
    for split, lines in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return {
        "splits": {split: len(rows[split]) for split in source.splits if split in rows},
        "counts": {
            "kept": len(candidates),
            "skipped": dict(source.skipped),
            "changed": {name: count for name, count in source.changed.items() if count},
            "by_group": {group: dict(counts) for group, counts in groups.items()},
        },
    }


def split_of(key: str, splits: dict[str, float]) -> str:
    """The split that a key belongs to, whatever else there is: by a hash of it, uniform in [0, 1)."""
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    chosen = ""
    for name, share in splits.items():
        chosen = name if share > 0 else chosen
        point -= share
        if point < 0:
            break
    return chosen


def summary(manifest: dict, out: str | Path) -> str:
    """The step's last line."""
    counts = manifest["counts"]
    totals = {group: sum(by_split.values()) for group, by_split in counts["by_group"].items()}
    of = listed(totals) if len(totals) <= SHOWN_GROUPS else f"{len(totals)} kinds"
    return (
        f"{manifest['count']:,} questions: {listed(manifest['splits'])}; of {of}; left out:"
        f" {listed(counts['skipped'])}; changed: {listed(counts['changed'])}; {manifest['seconds']} s → {out}"
    )


def show_questions(folder: str | Path, *, splits: dict[str, int], count: int) -> None:
    """Prints questions from all over the splits, with the first of their answers."""
    found = [(split, question) for split in splits for question in read_questions(folder, split=split)]
    step = max(len(found) // max(count, 1), 1)
    for split, question in found[::step][:count]:
        more = ["…"] if len(question.answers) > SHOWN_ANSWERS else []
        answers = " | ".join([*question.answers[:SHOWN_ANSWERS], *more])
        show_example(heading=f"{question.text}  · {split}, {question.id}", text=answers)


@command("data_prep/questions/questions")
def main(cfg) -> None:
    """Prepares a folder of questions, and prints `show` of them."""
    from hydra.utils import instantiate

    manifest, made = prepare_questions(source=instantiate(cfg.source), out=cfg.out)
    show_questions(cfg.out, splits=manifest["splits"], count=cfg.show)
    print(summary(manifest, cfg.out) if made else f"{cfg.out}: up to date, {manifest['count']:,} questions")


if __name__ == "__main__":
    main()
