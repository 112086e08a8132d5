"""A user's mistake ends in one line that says what to do, and nothing is lost."""

import errno
import json
import os

import pytest
from tiny_run import equal, facts, weights

from realm_train.index.store import IndexStore

PRETRAIN, ENCODER = "stages=[pretrain]", "model.towers.encoder"

pytestmark = pytest.mark.filterwarnings("ignore:cold start")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["corpus=nowhere"], ["nowhere/manifest.json: not found", "python -m data_prep.passages"]),
        (["model.encoder.vocab_size=1000"], ["1000 word pieces", "30522", "prepare the corpus with"]),
        (["stages=[ict,realm]"], ["stages: got ['realm']", "'pretrain'"]),
        (["ict.batch_size=6"], ["batch_size: got 6", "multiple of", "4 x 1"]),
        ([PRETRAIN, "pretrain.batch_size=5"], ["batch_size: got 5", "multiple of", "2 x 1"]),
        (["passage_length=32"], ["passage_length: got 32", "96", "raise passage_length"]),
        (["retriever=nowhere"], ["nowhere/checkpoints: no checkpoint", "train it first"]),
        (["ckpt_path=best"], ["ckpt_path: got 'best'", "expected last"]),
        ([f"{ENCODER}.name=no/such/folder", f"{ENCODER}.config=null"], ["encoder no/such/folder", "check the name"]),
        ([f"{ENCODER}.name=nobody/unheard-of", f"{ENCODER}.config=null"], ["encoder nobody/unheard-of", "check the"]),
        ([f"{ENCODER}.name=nobody/unheard-of"], ["encoder: got name=", "exactly one of them"]),
        ([PRETRAIN, "heldout_percent=0.0"], ["no held-out passage", "heldout_percent"]),
        ([PRETRAIN, "pretrain.k=0"], ["k: got 0", "at least 1"]),
        ([PRETRAIN, "pretrain.per=word"], ["pretrain.per: got 'word'", "'token' or 'span'"]),
        ([PRETRAIN, "pretrain.null_score=zero"], ["pretrain.null_score: got 'zero'", "'tower' or 'learned'"]),
        ([PRETRAIN, "refresh.every=0"], ["refresh.every: got 0", "at least 1"]),
        ([PRETRAIN, "pretrain.min_length=400"], ["no sentence of 400 pieces", "lower min_length"]),
        (["trainer.precision=17"], ["trainer: ", "17", "mend trainer."]),
        (["trainer.accelerator=abacus"], ["trainer: ", "abacus", "mend trainer."]),
        (["ict.stepz=3"], ["ict.stepz", "ict.steps"]),
        (["masking=entities"], ["masking=entities", "salient"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_it_is_refused_in_one_line(refused, words, said):
    line = refused(*words)
    assert all(part in line for part in said), line


def test_a_corpus_without_spans_is_refused_for_salient_masks_and_taken_for_others(refused, train, corpus_folder):
    line = refused(f"corpus={corpus_folder}", PRETRAIN)
    assert f"{corpus_folder}/spans/manifest.json: not found" in line and "python -m data_prep.spans" in line
    train(f"corpus={corpus_folder}", PRETRAIN, "masking=token", "pretrain.steps=1", run="other")


def test_towers_of_another_size_are_refused(refused, train):
    ict = train("stages=[ict]", run="ict")
    line = refused(PRETRAIN, f"retriever={ict}", "model.encoder.hidden_size=64")
    assert "Towers does not fit the configuration" in line and "size mismatch" in line


@pytest.mark.parametrize("stage", ["ict", "mlm", "pretrain"])
def test_going_on_with_another_corpus_is_refused(refused, train, make_corpus, vital_documents, tmp_path, stage):
    run = train(f"stages=[{stage}]")
    (run / "checkpoints" / stage / "DONE").unlink()
    files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    other = make_corpus(vital_documents[:-1], tmp_path)
    line = refused(f"stages=[{stage}]", f"corpus={other.folder}", "ckpt_path=last")
    known = json.loads((run / "provenance.json").read_text())["data"]["corpus"]
    assert f"was trained on corpus {known[:12]}…, but {other.folder} is {other.hash[:12]}…; give the corpus=" in line
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == files


@pytest.fixture
def stopped(train):
    """A run that was stopped two steps into pretraining."""
    run = train(PRETRAIN, "pretrain.steps=2", "refresh.final=false")
    (run / "checkpoints" / "pretrain" / "DONE").unlink()
    return run


@pytest.mark.parametrize("field", ["corpus", "tower"])
def test_an_index_of_another_corpus_or_tower_is_refused_when_a_run_goes_on(refused, stopped, field):
    path = stopped / "index" / "v000000" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {field: "another"}))
    kept = {file: file.read_bytes() for file in stopped.rglob("*") if file.suffix in (".ckpt", ".npy", ".jsonl")}
    line = refused(PRETRAIN, "ckpt_path=last")
    assert f"got {field} another, expected {manifest[field]}" in line and "refresh the index" in line
    assert {file: file.read_bytes() for file in kept} == kept


def test_an_index_that_is_gone_is_named_when_a_run_goes_on(refused, stopped):
    (stopped / "index" / "v000000").rename(stopped / "elsewhere")
    assert "no such index version (there are: none)" in refused(PRETRAIN, "ckpt_path=last")


def test_a_full_disk_during_an_inline_refresh_loses_nothing(refused, train, tmp_path, monkeypatch, before_step):
    whole = train(PRETRAIN, run="whole")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        before_step[1] = lambda: patch.setattr(os, "fsync", full)  # the refresh after step 2 cannot be written
        line = refused(PRETRAIN, "checkpoints.every=1")
    run = tmp_path / "run"
    assert f"{run / 'index'}: disk full" in line and "Free some space" in line
    assert IndexStore(run / "index").versions() == [0]
    train(PRETRAIN, "ckpt_path=last", "checkpoints.every=1")
    assert facts(run, "pretrain") == facts(whole, "pretrain")
    assert equal(weights(run, "pretrain"), weights(whole, "pretrain"))


@pytest.mark.parametrize(
    "words, told",
    [
        (["refresh=process", "refresh.every=35", "refresh.adopt_lag=50"], "refresh.adopt_lag: got 50"),
        (["refresh=process", "refresh.every=35", "refresh.max_age_steps=35"], "refresh.max_age_steps: got 35"),
        (
            ["refresh=rolling", "refresh.adopt_lag=3"],
            "no key 'refresh.adopt_lag'; there are: refresh.mode, refresh.every",
        ),
        (["index=faiss", "index.recall_floor=2.0"], "recall_floor=2.0"),
        (["pretrain.per=word"], "pretrain.per: got 'word'"),
    ],
)
def test_a_mistake_in_the_last_stage_is_told_before_the_first(refused, tmp_path, words, told):
    assert told in refused(*words)
    assert not (tmp_path / "run").exists()
