"""`python -m realm_train.plan` on a small corpus: it runs the run's own code, writes nothing, and refuses clearly."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import pytest
import torch
from tiny_run import ends_in_one_line, overrides, spans_folder, threads  # noqa: F401

from realm_train.command import compose
from realm_train.data.corpus import Corpus
from realm_train.index.store import IndexStore
from realm_train.plan import first, main, plan, ranks, rehearsed

QUICK = ["plan.seconds=0.2", "plan.steps=3"]


@pytest.fixture(scope="module")
def configured(overrides, tmp_path_factory):  # noqa: F811
    """`configured("seed=2", …)`: the configuration of a small run, as the command would get it."""
    run = tmp_path_factory.mktemp("planned") / "run"
    return lambda *words: compose("plan", *overrides, *QUICK, f"run={run}", *words)


@pytest.fixture(scope="module")
def record(configured):
    """The plan of a small run with a refresh process."""
    return plan(configured("refresh=process", "refresh.every=2"))


@pytest.fixture
def refused(overrides, ends_in_one_line):  # noqa: F811
    """`refused("k=0", …)`: the one line that this plan ends with."""
    return lambda *words: ends_in_one_line(main, *overrides, *QUICK, *words)


def test_the_bytes_are_those_of_a_version_that_is_published(record, spans_folder, tmp_path):  # noqa: F811
    count, store = Corpus(spans_folder).count, IndexStore(tmp_path)
    facts = {"trained_step": 0, "tower": "t", "corpus": "c", "seconds": 0.0}
    version = store.publish([np.zeros((count, 32), np.float16)], count=count, dim=32, dtype="float16", **facts)
    on_disk = (store.folder(version) / "embeddings.npy").stat().st_size
    assert record["corpus"]["passages"] == count and record["disk"]["embeddings"] == on_disk - 128
    assert record["disk"]["store"] == sum(f.stat().st_size for f in spans_folder.rglob("*") if f.is_file())


def test_rate_steps_and_ages_hang_together(record):
    refresh, encoding, training = record["refresh"], record["encoding"], record["training"]
    encoded = record["corpus"]["passages"] / encoding["passages_per_second_each"]
    assert refresh["seconds"] >= 0.99 * encoded > 0
    assert refresh["max_age"] >= refresh["every"] + refresh["shortest_age"] or not refresh["reached"]
    assert training["step_seconds"].keys() == {"ict", "pretrain"} and min(training["step_seconds"].values()) > 0


def test_memory_is_more_than_what_was_measured_and_not_twice_of_it(record):
    for part in record["memory"].values():
        if part["measured"]:  # there is a /proc
            assert 1.0 <= part["host"] / part["measured"] < 2.0


def test_nothing_is_written_but_what_is_removed_again(configured, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words = ("stages=[ict]", "json=true", "model.towers.dim=null")  # as wide as the encoder
    cfg = configured(*words, "run=" + str(tmp_path / "runs" / "never"))
    main(cfg)
    printed = json.loads(capsys.readouterr().out)
    assert printed["refresh"] is None and len(printed["verdict"]) <= 5
    assert not list(tmp_path.iterdir())


def test_a_larger_corpus_is_planned_from_the_one_at_hand(record, configured):
    large = plan(
        configured("refresh=process", "plan.passages=1e6", "plan.dim=64", "plan.devices=4", "stages=[pretrain]")
    )
    assert large["corpus"]["passages"] == 1_000_000 and large["disk"]["embeddings"] == 1_000_000 * 64 * 2
    rate = 4 * large["encoding"]["passages_per_second_each"]
    assert large["refresh"]["seconds"] >= 0.99e6 / rate
    scale = 1_000_000 / record["corpus"]["passages"]
    assert large["disk"]["store"] == pytest.approx(record["disk"]["store"] * scale, rel=0.001)


def test_the_index_of_a_rehearsal_is_small_and_its_sentences_are_of_the_whole_corpus(spans_folder):  # noqa: F811
    corpus = Corpus(spans_folder)
    view = first(corpus, 10)
    assert view.count == 10 and corpus.count == len(view.documents) == len(view.span_counts()) > 10
    assert view.hash == corpus.hash and view.tokens is corpus.tokens


def test_a_step_of_many_micro_batches_is_extrapolated_from_four(configured, tmp_path):
    cfg = configured("pretrain.batch_size=64", "pretrain.micro_batch_size=2", "trainer.devices=2")
    assert ranks(cfg) == 2
    smaller, factor = rehearsed(cfg, "pretrain", tmp_path)
    assert (smaller.pretrain.batch_size, smaller.pretrain.micro_batch_size, factor) == (8, 2, 4.0)
    assert (smaller.trainer.devices, smaller.refresh.mode, smaller.pretrain.steps) == (1, "inline", 3)
    assert cfg.pretrain.batch_size == 64 and cfg.trainer.devices == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["corpus=nowhere"], ["nowhere/manifest.json: not found", "python -m data_prep.passages"]),
        (["experiment=quickstrat"], ["no experiment=quickstrat", "quickstart"]),
        (["plan.passagez=3"], ["plan.passagez", "plan.passages"]),
        (["plan.steps=2"], ["plan.steps: got 2", "at least 3"]),
        (["stages=[ict,realm]"], ["stages: got ['realm']"]),
        (["refresh=process", "refresh.every=0"], ["refresh.every: got 0", "at least 1"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_a_mistake_is_refused_in_one_line(refused, words, said):
    line = refused(*words)
    assert all(part in line for part in said), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    "words",
    [
        ["refresh=process", "refresh.device=cuda:1"],
        ["trainer.accelerator=gpu"],
        ["refresh=process", "refresh.device=gpu"],
    ],
)
def test_a_device_that_is_not_there_is_refused(refused, words):
    line = refused(*words)
    assert "CUDA device" in line or "expected cpu or cuda:1" in line
