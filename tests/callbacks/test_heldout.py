"""Held-out evaluation against a recomputation one sentence and one passage at a time."""

import json

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from tiny_run import overrides, series, spans_folder, threads, train  # noqa: F401

from realm_train.build import build_reader, build_towers
from realm_train.checkpoints import weights_of
from realm_train.command import compose
from realm_train.data.corpus import Corpus
from realm_train.data.masked import MaskedSentences
from realm_train.index.store import IndexStore
from realm_train.stage_examples import sampling

pytestmark = pytest.mark.filterwarnings("ignore:cold start")
STEPS, DEPTHS = 3, (1, 5, 20)


@pytest.fixture(scope="module")
def words(spans_folder):  # noqa: F811
    from tiny_run import INLINE, SIZES, STEPS

    return [f"corpus={spans_folder}", *INLINE, *SIZES, *STEPS, "stages=[pretrain]", "refresh.dtype=float32"]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    """A run evaluated after each of its steps."""
    from realm_train.train import main

    run = tmp_path_factory.mktemp("heldout") / "run"
    main(compose("train", *words, f"run={run}", "pretrain.evaluate_every=1", "pretrain.lr=1e-3"))
    return run


def record(run, step):
    return json.loads((run / "heldout" / f"pretrain-{step:06d}.json").read_text())


class Naive:
    """The model of a step and the index it used, asked one question and one passage at a time."""

    def __init__(self, run, words, step):
        cfg = compose("train", *words)
        self.corpus = Corpus(cfg.corpus)
        weights = weights_of(run / "checkpoints" / "pretrain" / f"step-{step:06d}.ckpt", "towers", "reader")
        self.towers = build_towers(cfg, self.corpus, weights).eval()
        self.reader = build_reader(cfg, self.corpus, weights).masked_lm.eval()
        store = IndexStore(run / "index")
        version = max(v for v in store.versions() if store.manifest(v)["trained_step"] <= step)
        self.index = torch.from_numpy(store.load(version, corpus=self.corpus.hash)[1])
        self.k, self.length = cfg.pretrain.k, cfg.passage_length
        sentences = MaskedSentences(
            self.corpus, instantiate(cfg.masking), **sampling(cfg, "pretrain"), seed=0, heldout=True
        )
        self.examples = [sentences[position] for position in range(cfg.pretrain.heldout)]
        self.batches = [sentences.collate([example]) for example in self.examples]

    def ranking(self, number):
        """All passages that may be retrieved, best first."""
        example, batch = self.examples[number], self.batches[number]
        query = self.towers.query(batch.queries)[0]
        sentence = "," + ",".join(map(str, example.masked.original)) + ","
        barred = {example.passage, *self.corpus.near_duplicates(example.passage).tolist()}
        barred |= {
            p for p in range(self.corpus.count) if sentence in "," + ",".join(map(str, self.corpus.body(p))) + ","
        }
        scores = (self.index @ query).tolist()
        return sorted(set(range(self.corpus.count)) - barred, key=lambda passage: (-scores[passage], passage))

    def log_likelihood(self, number, passage):
        """log p(y_j|z,x) of each mask with one passage, or with none."""
        masked, corpus = self.examples[number].masked, self.corpus
        body = [] if passage is None else corpus.body(passage).tolist()
        question = [corpus.cls_id, *masked.tokens.tolist(), corpus.sep_id]
        ids = torch.tensor([[*question, *body, corpus.sep_id]])
        segments = torch.tensor([[0] * len(question) + [1] * (len(body) + 1)])
        logits = self.reader(input_ids=ids, token_type_ids=segments).logits[0]
        return logits[masked.positions + 1].log_softmax(-1).gather(1, torch.tensor(masked.targets)[:, None])[:, 0]

    def outcome(self, number):
        """-log p(y|x) and -log p(y|x, null passage)."""
        passages = [None, *self.ranking(number)[: self.k - 1]]
        query = self.towers.query(self.batches[number].queries)[0]
        ids = [np.array([-1 if passage is None else passage]) for passage in passages]
        scores = torch.stack([self.towers.passage(self.corpus.sequences(i, self.length))[0] @ query for i in ids])
        likelihood = torch.stack([self.log_likelihood(number, passage) for passage in passages])
        marginal = (scores.softmax(0)[:, None] * likelihood.exp()).sum(0).log()
        return -marginal.sum().item(), -likelihood[0].sum().item()

    def answered(self, number, passage):
        """Whether a passage's body holds the first masked run as whole words."""
        masked, starts = self.examples[number].masked, self.corpus.word_starts
        length = next(
            (n for n, p in enumerate(masked.positions) if p != masked.positions[0] + n), len(masked.positions)
        )
        answer, body = masked.targets[:length].tolist(), self.corpus.body(passage).tolist()
        return any(
            body[at : at + length] == answer
            and starts[answer[0]]
            and (at + length == len(body) or starts[body[at + length]])
            for at in range(len(body))
        )


@pytest.fixture(scope="module")
def naive(run, words):
    with torch.no_grad():
        yield Naive(run, words, STEPS)


def test_losses_with_and_without_retrieval_are_those_of_the_model(run, naive):
    outcomes = [naive.outcome(number) for number in range(len(naive.examples))]
    record_, masks = record(run, STEPS), sum(len(example.masked.positions) for example in naive.examples)
    assert record_["loss_by_example"] == pytest.approx([loss for loss, _ in outcomes], abs=2e-4)
    assert record_["loss_null_by_example"] == pytest.approx([null for _, null in outcomes], abs=2e-4)
    assert record_["masks_by_example"] == [len(example.masked.positions) for example in naive.examples]
    loss, null = (sum(column) / masks for column in zip(*outcomes, strict=True))
    metrics = record_["metrics"]
    assert (metrics["loss"], metrics["loss_null"]) == pytest.approx((loss, null), abs=1e-4)
    assert metrics["utility"] == pytest.approx(null - loss, abs=1e-4)
    assert dict(series(run, "pretrain", "heldout/loss"))[STEPS] == metrics["loss"]


def test_recall_is_that_of_a_ranking_of_all_passages(run, naive):
    hits = [[naive.answered(n, passage) for passage in naive.ranking(n)] for n in range(len(naive.examples))]
    metrics = record(run, STEPS)["metrics"]
    for depth in DEPTHS:
        assert metrics[f"recall@{depth}"] == pytest.approx(np.mean([any(row[:depth]) for row in hits]))
    assert metrics["recall@20"] > 0  # or this proves nothing


def test_what_is_shown_is_what_was_retrieved(run, naive):
    for number, example in enumerate(record(run, STEPS)["examples"]):
        passages = example["passages"]
        assert [passage["id"] for passage in passages] == naive.ranking(number)[: naive.k - 1]
        assert [p["has_answer"] for p in passages] == [naive.answered(number, p["id"]) for p in passages]
        assert [p["text"] for p in passages] == [naive.corpus.passage(p["id"])["text"] for p in passages]
        assert example["p_null"] + sum(p["p"] for p in passages) == pytest.approx(1, abs=1e-5)
        likelihoods = [naive.log_likelihood(number, p["id"]).sum().item() for p in passages]
        assert [p["log_likelihood"] for p in passages] == pytest.approx(likelihoods, abs=2e-4)


def test_the_sentences_are_the_same_every_time_and_never_trained_on(run, naive):
    records = [record(run, step) for step in range(STEPS + 1)]
    asked = [[(e["id"], e["masked"], e["answer"]) for e in r["examples"]] for r in records]
    assert asked == [asked[0]] * len(asked) and len(set(asked[0])) == len(asked[0])
    assert [e["id"] for e in records[0]["examples"]] == [example.passage for example in naive.examples]
    assert [r["step"] for r in records] == list(range(STEPS + 1))
    assert len({r["metrics"]["loss_null"] for r in records}) == len(records)  # it learns in between


def test_overlap_counts_shared_passages_and_of_an_index_with_itself_is_one(run, naive, words, train, monkeypatch):  # noqa: F811
    from realm_train.callbacks.heldout import HeldOut

    measured, examine = [], HeldOut.examine

    def twice(self, task, old, new):
        measured.append(examine(self, task, new, new)())
        return examine(self, task, old, new)

    monkeypatch.setattr(HeldOut, "examine", twice)
    other = train("stages=[pretrain]", "pretrain.lr=1e-2")
    assert len(measured) == 3
    for metrics in measured:
        assert [metrics[f"index/overlap@{k}"] for k in DEPTHS] == [1.0] * 3
    overlaps = series(other, "pretrain", "index/overlap@5")
    assert [step for step, _ in overlaps] == [2, 3] and all(0 <= value < 1 for _, value in overlaps)


def test_what_is_examined_beside_training_is_the_retriever_of_the_swap(words, train, monkeypatch):  # noqa: F811
    from realm_train.callbacks.heldout import HeldOut

    pairs, examine = [], HeldOut.examine

    def moved_on(self, task, old, new):
        work, now = examine(self, task, old, new), examine(self, task, old, new)()
        (weight,) = [value for name, value in task.towers.query.named_parameters() if "word_embeddings" in name]
        with torch.no_grad():
            weight.neg_()
            pairs.append((now, work(), examine(self, task, old, new)()))
            weight.neg_()
        return lambda: now

    monkeypatch.setattr(HeldOut, "examine", moved_on)
    train("stages=[pretrain]")
    assert len(pairs) == 3 and all(now == later for now, later, _ in pairs)
    assert any(now != other for now, _, other in pairs)  # or this proves nothing
