"""A small run, pretrained and fine-tuned, evaluated as its user would."""

import json

import pytest
from qa_world import questions_of

from realm_train import evaluate
from realm_train.command import compose
from realm_train.data.corpus import Corpus


@pytest.fixture
def evaluated(train, overrides, spans_folder, tmp_path):
    """`evaluated(run, "k=5", out="a")`: the record, and the predictions of every system."""
    asked = tmp_path / "asked.jsonl"
    questions = questions_of(Corpus(spans_folder), 16)
    asked.write_text("".join(json.dumps(question.row()) + "\n" for question in questions))

    def evaluated(run, *words, out):
        folder = tmp_path / out
        words = (
            f"run={run}",
            f"questions={asked}",
            f"out={folder}",
            "device=cpu",
            "threads=1",
            "resamples=200",
            *words,
        )
        evaluate.main(compose("evaluate", *words))
        return json.loads((folder / "evaluation.json").read_text()), folder

    evaluated.asked = asked
    return evaluated


@pytest.mark.filterwarnings("ignore:cold start", "ignore:.*bootstrap.*")
def test_a_fine_tuned_run_is_held_against_everything_it_came_from(train, evaluated):
    before = train("stages=[ict,mlm,pretrain]", "pretrain.steps=2", run="before")
    tuned = train(
        "experiment=open_qa",
        f"ckpt={before}",
        f"questions={evaluated.asked}",
        f"dev_questions={evaluated.asked}",
        *("open_qa.steps=2", "open_qa.batch_size=4", "open_qa.micro_batch_size=4", "open_qa.warmup=1"),
        *("open_qa.beam=12", "open_qa.read=3", "open_qa.heldout=4"),
        run="tuned",
    )
    record, folder = evaluated(tuned, out="a")
    assert list(record["systems"]) == ["run", "bm25", "closed_book", "ict", "pretrain", "oracle"]
    assert record["missing"] == {} and record["systems"]["run"]["index/recall"] == 1.0
    assert all("qa/exact_match" in system["metrics"] for system in record["systems"].values())
    drawn = record["leakage"]["sentences"]
    assert {name: one["draws"] for name, one in drawn["stages"].items()} == {
        "ict of before": 16,
        "mlm of before": 16,
        "pretrain of before": 8,
    }
    assert record["leakage"]["questions"]["parts"]["question overlap"]["count"] == 16, "it was fine-tuned on them"
    again = {path.name: path.read_bytes() for path in evaluated(tuned, out="b")[1].iterdir()}
    assert again == {path.name: path.read_bytes() for path in folder.iterdir()}, "the same bytes twice"
    _, by_one = evaluated(tuned, "batch_size=1", "shown=100", out="c")
    _, by_16 = evaluated(tuned, "batch_size=16", "shown=100", out="d")
    for key in record["systems"]:
        for one, other in zip(*(lines(place / f"predictions-{key}.jsonl") for place in (by_16, by_one)), strict=True):
            assert scores(one) == pytest.approx(scores(other), abs=1e-3), "the same passages, some all but tied"
            if list(scores(one))[:4] == list(scores(other))[:4]:
                assert one["prediction"] == other["prediction"]


def scores(line):
    return {passage["id"]: passage["score"] for passage in line["passages"]}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
