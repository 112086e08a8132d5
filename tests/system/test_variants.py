"""What the configuration offers works: every variant trains with finite losses and without a leak."""

import json
import math

import pytest
import torch
from tiny_run import events, series, weights

pytestmark = pytest.mark.filterwarnings("ignore:cold start")
PRETRAIN = "stages=[pretrain]"


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.precision=bf16-mixed", "stages=[ict,mlm,pretrain]"],
        ["pretrain.batch_size=6", "pretrain.micro_batch_size=2", PRETRAIN],
        ["model.gradient_checkpointing=true", PRETRAIN],
        ["model.towers.shared=false", PRETRAIN],
        ["model.towers.pooling=mean", "model.towers.scale=0.1", PRETRAIN],
        ["pretrain.null_score=learned", "pretrain.evaluate_every=1", "refresh.final=false", PRETRAIN],
        ["pretrain.per=span", PRETRAIN],
        ["masking=token", PRETRAIN],
        ["masking=span", "pretrain.per=span", PRETRAIN],
        ["masking.all_occurrences=false", "refresh.dtype=float16", "refresh.shard_size=7", PRETRAIN],
        ["pretrain.k=1", PRETRAIN],
    ],
    ids=lambda words: ",".join(words[:2]),
)
def test_it_trains(train, words):
    run = train(*words)
    stages = {event["stage"] for event in events(run)}
    for stage in stages:
        losses = [value for _, value in series(run, stage, "loss")]
        assert len(losses) == (3 if stage == "pretrain" else 2) and all(map(math.isfinite, losses))
        assert all(tensor.isfinite().all() for tensor in weights(run, stage).values())
    assert [value for _, value in series(run, "pretrain", "retrieval/leaks")] == [0.0] * 3


def test_untied_towers_both_learn_and_part(train):
    run = train("model.towers.shared=false", "model.dropout=0.0", "stages=[ict]", "ict.steps=3")
    final = weights(run, "ict")
    first = torch.load(run / "checkpoints" / "ict" / "step-000002.ckpt", weights_only=False)["state_dict"]
    for tower in ("query", "passage"):
        name = f"towers.{tower}.projection.weight"
        assert not torch.equal(final[name], first[name])
    assert not torch.equal(final["towers.query.projection.weight"], final["towers.passage.projection.weight"])


def test_only_the_null_passage_leaves_retrieval_nothing_to_say(train):
    run = train("stages=[pretrain]", "pretrain.k=1")
    for metric, value in (("retrieval/p_null", 1.0), ("retrieval/utility", 0.0), ("retrieval/unique_passages", 0.0)):
        assert [got for _, got in series(run, "pretrain", metric)] == pytest.approx([value] * 3, abs=1e-6)


def test_a_corpus_smaller_than_k_leaves_slots_empty_and_no_passage_is_its_own_source(train, spans_folder):
    from realm_train.data.corpus import Corpus

    run = train("stages=[pretrain]", "pretrain.k=80", "pretrain.steps=2", "pretrain.heldout=4")
    assert [value for _, value in series(run, "pretrain", "retrieval/leaks")] == [0.0] * 2
    for record in map(json.loads, (path.read_text() for path in (run / "heldout").glob("*.json"))):
        for example in record["examples"]:
            ids = [passage["id"] for passage in example["passages"]]
            assert len(set(ids)) == len(ids) < Corpus(spans_folder).count and example["id"] not in ids
            total = example["p_null"] + sum(passage["p"] for passage in example["passages"])
            assert total == pytest.approx(1, abs=1e-4)


def test_data_loading_processes_change_nothing(train):
    alone, helped = train("stages=[ict]", run="alone"), train("stages=[ict]", "workers=1", run="helped")
    assert series(alone, "ict", "loss") == series(helped, "ict", "loss")
