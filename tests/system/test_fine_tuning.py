"""Whole fine-tunings of a pretrained run: what changes and what does not, resuming, refreshing, and every mistake."""

import json
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tiny_run import ON_CPU, equal, facts, pretrained, questions_file, series, weights  # noqa: F401

from realm_train.command import compose
from realm_train.index.snapshot import tower_hash
from realm_train.index.store import IndexStore
from realm_train.tasks.open_qa import OpenQaTask

STEPS = ["open_qa.steps=3", "open_qa.batch_size=4", "open_qa.micro_batch_size=2", "open_qa.beam=20", "open_qa.lr=1e-3"]
STEPS += ["open_qa.heldout=6", "checkpoints.every=2", "refresh=inline", *ON_CPU]
PASSAGE = "towers.passage."


@pytest.fixture
def given(pretrained, questions_file) -> list[str]:  # noqa: F811
    """What fine-tuning is asked for: a run and questions."""
    return [f"ckpt={pretrained}", f"questions={questions_file}", f"dev_questions={questions_file}", *STEPS]


@pytest.fixture
def tune(given, tmp_path):
    """`tune("seed=2", …)`: fine-tunes in this process with these overrides, and returns the run's folder."""
    from realm_train.train import main

    def tune(*words: str, run: str = "run"):
        main(compose("train", "experiment=open_qa", f"run={tmp_path / run}", *given, *words))
        return tmp_path / run

    return tune


@pytest.fixture
def mistaken(given, tmp_path, ends_in_one_line):
    """`mistaken("ckpt=nowhere", …)`: the one line that this fine-tuning ends with."""
    from realm_train.train import main

    return lambda *words: ends_in_one_line(main, "experiment=open_qa", f"run={tmp_path / 'run'}", *given, *words)


def part(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The weights below `name`, under shorter names."""
    return {key.partition(name)[2]: value for key, value in state.items() if f".{name}" in f".{key}"}


def test_the_passage_tower_is_that_of_the_run_and_its_index_is_taken_over(tune, pretrained):  # noqa: F811
    run = tune()
    before, after = weights(pretrained, "pretrain"), weights(run, "open_qa")
    assert equal(part(after, PASSAGE), part(before, PASSAGE)) and part(after, PASSAGE)
    assert not equal(part(after, "towers.query."), part(before, "towers.query."))
    cfg, older = (OmegaConf.load(folder / "config.yaml") for folder in (run, pretrained))
    assert older.model.towers.shared and not cfg.model.towers.shared
    cfg.model.towers.shared = True
    assert cfg.model == older.model and cfg.corpus == older.corpus and cfg.passage_length == older.passage_length
    store = IndexStore(run / "index")
    (version,) = store.versions()
    manifest, vectors = store.load(version, corpus=store.manifest(version)["corpus"])
    assert manifest["encoded"] == 0 and manifest["reused"] == manifest["count"] and manifest["trained_step"] == 0
    assert manifest["tower"] == tower_hash(part(after, PASSAGE))
    theirs = IndexStore(pretrained / "index")
    newest = theirs.load(theirs.latest(), corpus=manifest["corpus"])[1]
    np.testing.assert_array_equal(vectors, newest)
    assert [step for step, _ in series(run, "open_qa", "loss")] == [0, 1, 2]
    assert [step for step, _ in series(run, "open_qa", "heldout/qa_exact_match")] == [0, 3]
    ages = [age for _, age in series(run, "open_qa", "index/age_steps")]
    assert ages and (run / "checkpoints" / "open_qa" / "DONE").exists()


def test_without_an_index_to_take_over_the_corpus_is_encoded_once(tune, pretrained, tmp_path):  # noqa: F811
    bare = shutil.copytree(pretrained, tmp_path / "bare", ignore=shutil.ignore_patterns("index*"))
    store = IndexStore(tune(f"ckpt={bare}") / "index")
    (version,) = store.versions()
    assert store.manifest(version)["encoded"] == store.manifest(version)["count"] and not (bare / "index").exists()


def test_a_stopped_fine_tuning_goes_on_as_if_it_had_not_been(tune, monkeypatch):
    words = ["open_qa.steps=5", "open_qa.evaluate_every=2"]
    whole = tune(*words, run="whole")
    step = OpenQaTask.training_step

    def stops(task, batch, batch_idx):
        if task.trainer.global_step == 3:
            raise RuntimeError("the power is gone")
        return step(task, batch, batch_idx)

    monkeypatch.setattr(OpenQaTask, "training_step", stops)
    with pytest.raises(RuntimeError, match="the power is gone"):
        tune(*words, run="stopped")
    monkeypatch.setattr(OpenQaTask, "training_step", step)
    run = tune(*words, "ckpt_path=last", run="stopped")
    assert len(json.loads((run / "provenance.json").read_text())["resumed"]) == 1
    assert [step for step, _ in series(run, "open_qa", "loss")] == [0, 1, 2, 3, 4]
    assert facts(run, "open_qa") == facts(whole, "open_qa")
    assert equal(weights(run, "open_qa"), weights(whole, "open_qa"))
    assert IndexStore(run / "index").versions() == [0]


def test_with_a_refresh_the_passage_tower_learns_and_its_index_follows(tune, pretrained):  # noqa: F811
    run = tune("open_qa.refresh=true", "refresh.every=2")
    before, after = weights(pretrained, "pretrain"), weights(run, "open_qa")
    assert not equal(part(after, PASSAGE), part(before, PASSAGE))
    store = IndexStore(run / "index")
    manifests = [store.manifest(version) for version in store.versions()]
    assert [manifest["trained_step"] for manifest in manifests] == [0, 2, 3]
    assert manifests[0]["encoded"] == 0 and manifests[-1]["encoded"] == manifests[-1]["count"]
    assert manifests[-1]["tower"] == tower_hash(part(after, PASSAGE))
    assert {step for step, _ in series(run, "open_qa", "index/overlap@5")} == {2, 3}


def test_micro_batches_change_no_loss_beyond_rounding(tune):
    words = ["+model.towers.encoder.dropout=0.0", "+model.reader.dropout=0.0", "open_qa.lr=1e-4", "open_qa.heldout=0"]
    losses = [
        [
            value
            for _, value in series(tune(*words, f"open_qa.micro_batch_size={size}", run=str(size)), "open_qa", "loss")
        ]
        for size in (1, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and len(set(losses[0])) == 3


def test_nothing_need_be_looked_at_while_training(tune, pretrained, questions_file):  # noqa: F811
    run = tune("dev_questions=null", "open_qa.heldout=0")
    assert len(series(run, "open_qa", "loss")) == 3 and not series(run, "open_qa", "heldout/qa_exact_match")
    assert abs(float(weights(run, "open_qa")["qa.null_bias"])) > 0.1  # it began among the scores of passages


def test_a_fine_tuned_run_is_fine_tuned_again_and_an_earlier_stage_can_be_the_start(tune, pretrained):  # noqa: F811
    first = tune(run="first")
    again = tune(f"ckpt={first}", "open_qa.lr=0.0", "open_qa.lr_null=0.0", run="again")
    assert equal(weights(again, "open_qa"), weights(first, "open_qa"))
    early = tune("ckpt_stage=ict", run="early")
    assert equal(part(weights(early, "open_qa"), PASSAGE), part(weights(pretrained, "ict"), PASSAGE))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ckpt=null"], ["ckpt: got nothing", "ckpt=runs/"]),
        (["ckpt=nowhere"], ["nowhere/config.yaml: not found"]),
        (["questions=null"], ["questions: got nothing", "questions=data/questions/trivia"]),
        (["questions=nowhere.jsonl"], ["nowhere.jsonl"]),
        (["dev_questions=null"], ["questions: got the one file", "dev_questions=", "open_qa.heldout=0"]),
        (
            ["stages=[pretrain,open_qa]"],
            ["stages: got ['pretrain', 'open_qa']", "expected open_qa in a run of its own"],
        ),
        (["open_qa.null_score=tovver"], ["open_qa.null_score: got 'tovver'", "'tower' or 'learned'"]),
        (["open_qa.read=21"], ["open_qa.read: got 21 of a beam of 20"]),
        (["open_qa.max_span=0"], ["open_qa.max_span: got 0"]),
        (["open_qa.batch_size=5"], ["batch_size: got 5", "multiple of"]),
        (["open_qa.refresh=true", "refresh=rolling"], ["refresh: got mode=rolling", "does not write into the index"]),
        (["open_qa.refresh=true", "refresh.write_back=true"], ["write_back=True", "does not write into the index"]),
        (["ckpt_stage=mlm"], ["no checkpoint of mlm", "train it first"]),
        (["ckpt_stage=itc"], ["stage: got 'itc'", "expected one of ict"]),
        (["open_qa.beem=3"], ["open_qa.beem", "open_qa.beam"]),
    ],
    ids=lambda value: ",".join(value) if "=" in value[0] else "",
)
def test_a_mistake_is_told_in_one_line(mistaken, words, said):
    line = mistaken(*words)
    assert all(one in line for one in said), line


def test_a_broken_pattern_and_a_line_that_is_no_question_are_told_with_their_place(mistaken, tmp_path):
    lines = [json.dumps({"question": "When?", "answers": [answer]}) for answer in ("18..", "(18")]
    (tmp_path / "patterns.jsonl").write_text("\n".join(lines))
    line = mistaken(f"questions={tmp_path / 'patterns.jsonl'}", "open_qa.regex=true")
    assert "patterns.jsonl" in line and "2" in line and "(18" in line
    (tmp_path / "broken.jsonl").write_text('{"question": "When?", "answers": ["now"]}\n{"question": ')
    line = mistaken(f"questions={tmp_path / 'broken.jsonl'}")
    assert "broken.jsonl" in line and "2" in line


def test_patterns_are_learnt_from(tune, tmp_path):
    lines = [json.dumps({"question": f"When was it, {number}?", "answers": [r"\b1[89]\d\d\b"]}) for number in range(8)]
    (tmp_path / "patterns.jsonl").write_text("\n".join(lines))
    both = [f"{key}={tmp_path / 'patterns.jsonl'}" for key in ("questions", "dev_questions")]
    run = tune(*both, "open_qa.regex=true", "open_qa.beam=60")
    assert all(share == 1.0 for _, share in series(run, "open_qa", "qa/answer_in_beam"))


def test_a_report_says_what_the_looks_at_held_out_questions_say(tune):
    from rich.console import Console

    from realm_train.report import write_report

    run = tune()
    report = write_report(run, console=Console(quiet=True))
    match = dict(series(run, "open_qa", "heldout/qa_exact_match"))
    assert report["open_qa"]["exact_match"] == {"start": match[0], "end": match[3]}
    assert report["finished"] and report["seconds"]["open_qa"] > 0 and report["index"]["versions"] == 1
    page = (run / "report.html").read_text()
    assert f"Fine-tuned: of the held-out questions it answers {match[3]:.1%}" in page
    assert json.loads((run / "report.json").read_text()) == report
    blind = write_report(tune("open_qa.heldout=0", run="blind"), console=Console(quiet=True))
    assert "exact_match" not in blind["open_qa"] and blind["finished"]
