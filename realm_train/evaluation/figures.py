"""The report's figures: pretraining, the index, the warm start."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from realm_train.evaluation.chart import Line, chart, smooth
from realm_train.evaluation.run import Number, Run

DEPTHS = ((1, 1), (5, 2), (20, 3))  # k, colour


def pretraining(run: Run) -> Iterator[str]:
    """Loss, and what retrieval does to it."""
    marks = [(step, f"v{version}") for step, version in run.adoptions()]
    loss, utility = run.curve("pretrain", "loss"), run.curve("pretrain", "retrieval/utility")
    spread = run.curve("pretrain", "retrieval/score_std")
    p_null, entropy = run.curve("pretrain", "retrieval/p_null"), run.curve("pretrain", "retrieval/entropy")
    figures = [
        chart(
            "Held-out loss, with and without retrieval",
            [
                Line("no passages", held(run, "loss_null"), 2, "dots"),
                Line("retrieval", held(run, "loss"), 1, "dots"),
            ],
            note="Nats a hidden word piece. The gap is what retrieval is worth to the same reader.",
            least=0.5,
        ),
        chart(
            "Retrieval utility",
            [
                Line("raw", utility, 1, "faint"),
                Line("training", smooth(utility), 1),
                Line("held out", held(run, "utility"), 3, "dots"),
            ],
            note="log p(y|x) − log p(y|x, ∅). Above zero, passages help.",
            marks=marks,
            zero=True,
        ),
        chart(
            "Pretraining loss",
            [Line("raw", loss, 1, "faint"), Line("training", smooth(loss), 1)],
            note="Marginal over passages, nats a hidden word piece; the faint line is each logged step.",
        ),
        chart(
            "p(null)",
            [
                Line("raw", p_null, 1, "faint"),
                Line("training", smooth(p_null), 1),
                Line("held out", held(run, "p_null"), 3, "dots"),
            ],
            note="How much the empty passage gets of p(z|x). Near 1 the retriever is dead.",
            floor=0,
        ),
        chart(
            "Entropy of p(z|x)",
            [
                Line("raw", entropy, 1, "faint"),
                Line("training", smooth(entropy), 1),
                Line("held out", held(run, "entropy"), 3, "dots"),
            ],
            note="Nats. High: it spreads its bets. Near 0: one passage takes all.",
            floor=0,
        ),
        chart(
            "Spread of the scores",
            [Line("raw", spread, 1, "faint"), Line("training", smooth(spread), 1)],
            note="Standard deviation of f(x,z) over retrieved passages. Near 0 all passages look alike.",
            floor=0,
        ),
    ]
    yield from section(
        "Pretraining", "The reader fills in hidden words, and the retriever learns what to look up.", figures
    )


def held(run: Run, name: str) -> list[tuple[int, Number]]:
    """(step, value) of a held-out metric: from the metrics, and from the evaluations' own files."""
    points = dict(run.curve("pretrain", f"heldout/{name}"))
    points |= {record["step"]: record["metrics"][name] for record in run.heldout if name in record["metrics"]}
    return sorted(points.items())


def index(run: Run) -> Iterator[str]:
    """How fresh the index is, and what each new version changes."""
    marks = [(step, f"v{version}") for step, version in run.adoptions()]

    def at_each(metric: str) -> list[Line]:
        return [Line(f"top {k}", run.curve("pretrain", f"{metric}@{k}"), colour, "dots") for k, colour in DEPTHS]

    age, speed = run.curve("pretrain", "index/age_steps"), run.curve("pretrain", "throughput/tokens_per_second")
    end = age[-1][0] if age else None
    figures = [
        chart(
            "Index age",
            [Line("steps", age, 1)],
            note="Optimiser steps since the weights that encoded the index in use; a vertical line is an adoption.",
            marks=marks,
            floor=0,
        ),
        chart(
            "Overlap of old and new index",
            at_each("index/overlap"),
            note="Share of the old index's top passages that the new one finds too. Rising: the retriever settles.",
            marks=marks,
            floor=0,
            ceiling=1,
            until=end,
        ),
        chart(
            "Recall on held-out sentences",
            at_each("retrieval/recall"),
            note="How often a retrieved passage holds the hidden words, at each new index.",
            marks=marks,
            floor=0,
            until=end,
        ),
        chart(
            "Throughput",
            [Line("raw", speed, 1, "faint"), Line("tokens/s", smooth(speed), 1)],
            note="Tokens a second; a refresh that shares the machine slows training.",
            marks=marks,
            floor=0,
        ),
    ]
    yield from section("The index", "Passages are encoded anew while training goes on with the old index.", figures)


def warm_start(run: Run) -> Iterator[str]:
    """The inverse cloze task."""
    loss, kept, masked = (run.curve("ict", name) for name in ("loss", "ict/accuracy_kept", "ict/accuracy_masked"))
    accuracy = [] if masked else run.curve("ict", "ict/accuracy")
    figures = [
        chart(
            "Loss",
            [Line("raw", loss, 1, "faint"), Line("training", smooth(loss), 1)],
            note="Nats, softmax over a batch.",
        ),
        chart(
            "Accuracy",
            [
                Line("raw", masked or accuracy, 1, "faint"),
                Line("removed", smooth(masked), 1) if masked else Line("training", smooth(accuracy), 1),
                Line("kept", smooth(kept), 2),
                Line("held out", run.curve("ict", "heldout/ict_accuracy"), 3, "dots"),
            ],
            note="How often a sentence finds its passage in the batch: with the sentence left in it, or removed.",
            ceiling=1,
        ),
    ]
    yield from section("Warm start", "The inverse cloze task: which passage was this sentence taken from?", figures)


def section(title: str, lead: str, figures: list[str]) -> Iterator[str]:
    """A heading with its figures, or nothing where there are none."""
    if any(figures):
        yield f'<h2>{escape(title)}</h2><p>{escape(lead)}</p><div class="charts">{"".join(figures)}</div>'
