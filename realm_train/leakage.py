"""What of the questions was in training: themselves, their answers, and the sentences that answer them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from realm_train.baselines import lineage
from realm_train.checkpoints import ORDER, last_checkpoint, trained_on
from realm_train.data.corpus import Corpus
from realm_train.data.drawn import drawn_sentences, sentence_key
from realm_train.data.questions import Question, read_questions
from realm_train.errors import BadInput
from realm_train.evaluation.qa_metrics import Measures, short
from realm_train.evaluation.question_overlap import PARTS, Overlap, SeenQuestions
from realm_train.stage_examples import STREAMS
from realm_train.tasks.judging import Judge, Judged
from realm_train.trained import Trained

MAIN = ("qa/exact_match", "qa/recall@5", "qa/recall@1")


def main_metric(measures: Measures) -> str:
    """Exact match where something was read, else recall."""
    return next(metric for metric in MAIN if metric in measures)


def training_questions(path: str | Path | None, trained: Trained, questions: str | Path) -> list[Question] | None:
    """The questions of training: those named, those that the run was fine-tuned on, or those beside the ones that are
    asked; None where none are known."""
    if path is not None:
        return read_questions(path, split="train")
    with suppress(BadInput):  # they may be gone since
        if trained.cfg.get("questions") is not None:
            settings = trained.cfg.open_qa
            return read_questions(
                trained.cfg.questions, split="train", name=settings.questions_name, regex=settings.regex
            )
    beside = Path(questions) / "train.jsonl"
    return read_questions(beside) if beside.exists() else None


def seen_questions(
    train: Sequence[Question] | None,
    questions: Sequence[Question],
    measures: dict[str, Measures],
    *,
    threshold: float,
) -> dict[str, Any]:
    """Each part of the questions by what of them was in `train`, and the main metric of every system in it."""
    if train is None:
        return {"unknown": "not known: no training questions were given (train=…) or stand beside these"}
    seen = SeenQuestions(
        [one.text for one in train], (answer for one in train for answer in one.answers), threshold=threshold
    )
    found = [seen.overlap(question.text, question.answers) for question in questions]
    metric = main_metric(next(iter(measures.values())))
    parts = {part: np.array([one.part == part for one in found]) for part in PARTS}
    return {
        "train": len(train),
        "threshold": threshold,
        "metric": metric,
        "answer_overlap": sum(one.answer for one in found),
        "parts": {
            part: {
                "count": int(inside.sum()),
                "systems": {key: mean_of(own[metric], inside) for key, own in measures.items() if metric in own},
            }
            for part, inside in parts.items()
        },
        "near_duplicates": near_duplicates(found, questions, train),
    }


def near_duplicates(found: Sequence[Overlap], questions: Sequence[Question], train: Sequence[Question]) -> list[dict]:
    """The questions that were in training in other words, each with what it is like."""
    return [
        {
            "question": question.text,
            "train": train[one.question].text,
            "similarity": short(one.similarity),
            "same_answer": bool(set(question.answers) & set(train[one.question].answers)),
        }
        for one, question in zip(found, questions, strict=True)
        if one.question is not None
    ]


def seen_sentences(trained: Trained, judge: Judge, judged: Sequence[Judged], measures: Measures) -> dict[str, Any]:
    """Of how many questions a sentence that holds an answer, in a passage that was retrieved, was an example of a stage
    of the run, or of one that it was trained from."""
    corpus = trained.corpus
    answering = [answer_sentences(corpus, judge, one) for one in judged]
    passages = {passage for found in answering for passage, _ in found}
    keys = [{key for _, key in found} for found in answering]
    stages: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    drawn = np.zeros(len(judged), dtype=bool)
    for name, source, part, count in drawing_stages(trained.run, trained.stage):
        if trained_on(source) != corpus.hash:
            unknown[name] = "it was trained on another corpus"
            continue
        try:
            stream = STREAMS[part](OmegaConf.load(source / "config.yaml"), corpus)
        except BadInput as reason:  # its spans may be gone
            unknown[name] = str(reason)
            continue
        sentences = drawn_sentences(stream, count, passages)
        hit = np.array([bool(one & sentences) for one in keys])
        stages[name] = {"questions": int(hit.sum()), "draws": count}
        drawn |= hit
    metric, with_sentence = main_metric(measures), np.array([bool(one) for one in keys])
    return {
        "metric": metric,
        "with_sentence": int(with_sentence.sum()),
        "stages": stages,
        "unknown_stages": unknown,
        "drawn": {"count": int(drawn.sum()), "mean": mean_of(measures[metric], drawn)},
        "not_drawn": {
            "count": int((with_sentence & ~drawn).sum()),
            "mean": mean_of(measures[metric], with_sentence & ~drawn),
        },
    }


def drawing_stages(run: Path, stage: str) -> list[tuple[str, Path, str, int]]:
    """Name, run, stage and count of examples of every stage up to `stage` that drew sentences, the run's own first."""
    found, taken_up_to = [], None
    for source in lineage(run):
        cfg = OmegaConf.load(source / "config.yaml")
        last = stage if source == run else taken_up_to
        upto = ORDER[: ORDER.index(last) + 1] if last else ORDER
        taken_up_to = cfg.get("ckpt_stage")
        for part in STREAMS:
            checkpoint = last_checkpoint(source, part, required=False)
            if part in upto and checkpoint is not None:
                steps = int(checkpoint.stem.removeprefix("step-"))
                name = f"{part} of {source.resolve().name}"
                found.append((name, source, part, steps * cfg[part].batch_size))
    return found


def answer_sentences(corpus: Corpus, judge: Judge, judged: Judged) -> set[tuple[int, bytes]]:
    """Passage and key of the sentences that hold an answer, in the passages that were retrieved."""
    found = set()
    for passage, hit in zip(judged.reply.passages, judged.hits, strict=True):
        if hit:
            text, body = judge.passage(passage)["text"], corpus.body(passage)
            for start, end, first, last in corpus.sentences(passage).tolist():
                if judge.holds(text[start:end], judged.question):
                    found.add((passage, sentence_key(body[first:last])))
    return found


def mean_of(values: np.ndarray, inside: np.ndarray) -> float | None:
    """The mean over some questions, None over none."""
    return short(float(values[inside].mean())) if inside.any() else None
