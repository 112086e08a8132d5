"""REALM's step: the exact sum over a corpus, one count of masks, search without noise, honest health numbers."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from small_world import REAL_WORDS, fit, gradients, masked_sentences, pretrain_task, random_index
from tiny_models import tiny_realm

from realm_train.batch import MISSING
from realm_train.evaluation.retrieval import holds_run
from realm_train.objectives.marginal import log_prior
from realm_train.tasks.encode import evaluating, passage_encoder
from realm_train.tasks.retrieval import Retrieval


class WholeTrainer:
    """What a step asks of a Trainer when one micro-batch is the whole step."""

    accumulate_grad_batches = 1


def read_by_hugging_face(task, batch, row: int, passages: list[int]) -> torch.Tensor:
    """log p(y_j|z,x) [K, M] of one question and many passages as one padded batch, projected everywhere."""
    corpus, masked_lm = task.retrieval.corpus, task.realm.reader.masked_lm
    query = batch.queries.ids[row, : batch.queries.lengths[row]].tolist()
    bodies = [[] if p == MISSING else corpus.body(p)[: task.retrieval.body_length].tolist() for p in passages]
    joints = [[*query, *body, corpus.sep_id] for body in bodies]
    width = max(map(len, joints))
    inputs = {
        "input_ids": [joint + [0] * (width - len(joint)) for joint in joints],
        "attention_mask": [[1] * len(joint) + [0] * (width - len(joint)) for joint in joints],
        "token_type_ids": [[0] * len(query) + [1] * (width - len(query)) for _ in joints],
    }
    words = masked_lm(**{name: torch.tensor(value) for name, value in inputs.items()}).logits
    positions = batch.positions[row, batch.valid[row]]
    return words[:, positions].log_softmax(dim=-1)[:, range(len(positions)), batch.targets[row, batch.valid[row]]]


@pytest.mark.parametrize("per", ["token", "span"])
def test_retrieving_everything_gives_the_exact_sum_over_the_corpus(spanned, per):
    """More candidates than the corpus has: p(y|x) is the sum over every passage that may be read."""
    corpus, batch = spanned, masked_sentences(spanned).batch(range(3))
    retrieval = Retrieval(corpus, k=len(corpus) + 10, passage_length=64, body_length=48)
    task = pretrain_task(retrieval, per=per).eval()
    everything = range(len(corpus))
    vectors = passage_encoder(task.realm.towers.passage, corpus, max_length=64)(torch.arange(len(corpus)).numpy())
    retrieval.adopt(random_index(corpus))
    with torch.no_grad():
        queries = task.realm.towers.query(batch.queries)
        null = task.realm.towers.passage(corpus.sequences(torch.tensor([MISSING]).numpy(), 64))
        output = task.realm(batch, retrieval.candidates(queries, batch))
        got = task.log_marginal(output, batch)
        for row in range(3):
            sentence = batch.original_ids[row, 1 : batch.queries.lengths[row] - 1].numpy()
            barred = set(batch.exclude[row].tolist())
            allowed = [p for p in everything if p not in barred and not holds_run(corpus.body(p), sentence)]
            scores = torch.cat([null, vectors[allowed]]) @ queries[row] * 0.2
            read = read_by_hugging_face(task, batch, row, [MISSING, *allowed])
            groups = batch.spans[row, batch.valid[row]] if per == "span" else torch.arange(read.shape[1])
            p = [(scores.softmax(0) * read[:, groups == group].sum(dim=1).exp()).sum() for group in groups.unique()]
            assert 0 < len(allowed) < len(corpus) and int(output.present[row].sum()) == 1 + len(allowed)
            torch.testing.assert_close(got[row], torch.stack(p).log().sum(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(task.log_null(output, batch)[row], read[0].sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("per", ["token", "span"])
def test_the_loss_is_the_mean_over_masks(spanned, retrieval, per):
    task, batch = pretrain_task(retrieval, per=per), masked_sentences(spanned).batch(range(6))
    task.trainer = WholeTrainer()
    loss = task.training_step(batch, 0)
    _, output = evaluated(task, batch)
    expected = -task.log_marginal(output, batch).sum() / int(batch.valid.sum())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    half = dataclasses.replace(batch, step_masks=2 * batch.step_masks)
    torch.testing.assert_close(task.training_step(half, 0), expected / 2, rtol=1e-5, atol=1e-6)


def evaluated(task, batch):
    with evaluating(task):
        candidates = task.retrieval.candidates(task.realm.towers.query(batch.queries), batch)
        return candidates, task.realm(batch, candidates)


@pytest.mark.parametrize("per", ["token", "span"])
def test_four_micro_batches_of_two_are_one_batch_of_eight(spanned, retrieval, per):
    examples = masked_sentences(spanned)
    parts, whole = examples.micro_batches(range(8), 2), examples.micro_batches(range(8), 8)
    assert len({int(part.valid.sum()) for part in parts}) > 1  # or a mean of means would do
    weights = []
    for batches in (parts, whole):
        task = pretrain_task(retrieval, per=per)
        before = copy.deepcopy(task.state_dict())
        task.configure_optimizers = lambda task=task: torch.optim.SGD(task.parameters(), lr=0.1)
        fit(task, batches, accumulate_grad_batches=len(batches))
        weights.append({name: value - before[name] for name, value in task.state_dict().items()})
    assert max(change.abs().max() for change in weights[0].values()) > 1e-2
    for name, change in weights[0].items():
        torch.testing.assert_close(change, weights[1][name], rtol=0, atol=1e-6)


def test_health_is_of_the_whole_step(spanned, retrieval):
    """Logged once a step; over two micro-batches it is what one batch of both says."""
    task, logged = pretrain_task(retrieval), []
    task.log_dict = lambda metrics, **_: logged.append(dict(metrics))
    examples = masked_sentences(spanned)
    task.configure_optimizers = lambda: torch.optim.SGD(task.parameters(), lr=0.0)
    fit(task, examples.micro_batches(range(6), 3), accumulate_grad_batches=2)
    batch = examples.batch(range(6))
    candidates, output = evaluated(task, batch)
    masks, prior = int(batch.valid.sum()), log_prior(output.scores)
    log_p, log_null = task.log_marginal(output, batch).sum(), task.log_null(output, batch).sum()
    expected = {
        "loss": -log_p / masks,
        "retrieval/utility": (log_p - log_null) / masks,
        "retrieval/p_null": prior[:, 0].exp().mean(),
        "retrieval/entropy": -(prior.exp() * prior).sum(dim=1).mean(),
        "retrieval/score_std": output.scores[:, 1:].std(dim=1, correction=0).mean(),
        "retrieval/unique_passages": len(set(candidates.ids[:, 1:].flatten().tolist())),
        "retrieval/leaks": 0,
    }
    assert len(logged) == 1 and logged[0] == pytest.approx({name: float(v) for name, v in expected.items()}, abs=1e-5)
    joint = batch.queries.lengths[:, None] + candidates.body_lengths[candidates.rows] + 1
    parts = [evaluated(task, part)[0].passages.lengths.sum() for part in examples.micro_batches(range(6), 3)]
    assert task.step_tokens == int(batch.queries.lengths.sum() + sum(parts) + joint.sum())


def test_a_leak_that_the_search_misses_is_logged(spanned, retrieval, monkeypatch):
    task, logged = pretrain_task(retrieval), []
    task.log_dict = lambda metrics, **_: logged.append(dict(metrics))
    monkeypatch.setattr(retrieval, "search", lambda queries, batch, k: dataclasses.replace(
        Retrieval.search(retrieval, queries, batch, k), ids=batch.source[:, None].expand(-1, k)))  # fmt: skip
    fit(task, [masked_sentences(spanned).batch(range(4))])
    assert logged[0]["retrieval/leaks"] == 4 * 3


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_search_is_asked_without_dropout_and_the_objective_with_it(spanned, retrieval, monkeypatch, dropout):
    noisy = REAL_WORDS | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    task, batch, asked = pretrain_task(retrieval, config=noisy), masked_sentences(spanned).batch(range(4)), []
    task.trainer = WholeTrainer()
    found = Retrieval.candidates
    monkeypatch.setattr(
        retrieval, "candidates", lambda queries, batch: (asked.append(queries), found(retrieval, queries, batch))[1]
    )
    losses = [task.training_step(batch, 0).item() for _ in range(2)]
    with evaluating(task):
        still = task.realm.towers.query(batch.queries)
    assert all(torch.equal(queries, still) and not queries.requires_grad for queries in asked)
    assert (losses[0] == losses[1]) == (dropout == 0) and task.realm.towers.query.training


def test_each_part_gets_gradient_from_one_step(spanned, retrieval):
    task = pretrain_task(retrieval, towers={"shared": False, "scale": 0.2})
    task.trainer = WholeTrainer()
    task.training_step(masked_sentences(spanned).batch(range(4)), 0).backward()
    got = gradients(task.realm)
    for part in ("towers.query.", "towers.passage.", "reader."):
        assert any(gradient.abs().max() > 1e-4 for name, gradient in got.items() if name.startswith(part)), part
    assert all(gradient.isfinite().all() for gradient in got.values())


def test_mixed_precision_trains_fp32_weights(spanned, retrieval):
    task, logged = pretrain_task(retrieval), []
    task.log_dict = lambda metrics, **_: logged.append(dict(metrics))
    full = pretrain_task(retrieval)
    full.trainer = WholeTrainer()
    batches = masked_sentences(spanned).micro_batches(range(4), 2)
    whole = full.training_step(masked_sentences(spanned).batch(range(4)), 0)
    fit(task, batches, precision="bf16-mixed", accumulate_grad_batches=2)
    assert all(value.dtype == torch.float32 for value in task.state_dict().values() if value.is_floating_point())
    assert logged[0]["loss"] == pytest.approx(whole.item(), rel=0.05) and logged[0]["loss"] != whole.item()
    assert logged[0]["retrieval/leaks"] == 0


def test_evaluation_is_repeatable_takes_candidates_and_leaves_training_mode_on(spanned, retrieval):
    noisy = REAL_WORDS | {"hidden_dropout_prob": 0.4, "attention_probs_dropout_prob": 0.4}
    task, batch = pretrain_task(retrieval, config=noisy), masked_sentences(spanned).batch(range(4))
    fit(task, [batch])
    task.train()
    candidates, output = task.evaluate(batch)
    again, other = task.evaluate(batch, candidates)
    assert again is candidates and torch.equal(output.scores, other.scores)
    assert torch.equal(output.log_likelihood, other.log_likelihood) and not output.scores.requires_grad
    assert task.training and task.realm.towers.training
    others = retrieval.read(torch.full((4, 3), MISSING))
    _, alone = task.evaluate(batch, others)
    torch.testing.assert_close(task.log_marginal(alone, batch), task.log_null(output, batch), rtol=0, atol=1e-4)


def test_towers_reader_and_null_score_step_at_their_own_rates(retrieval):
    from realm_train.tasks.optimizer import Optimization
    from realm_train.tasks.pretrain import PretrainTask

    realm = tiny_realm(null_score="learned")
    task = PretrainTask(realm, retrieval, Optimization(steps=10, lr=1e-3, lr_retriever=1e-4, lr_null=1e-1))
    task.trainer = type("FullPrecision", (), {"precision": "32-true"})()
    rates = {
        id(parameter): group["initial_lr"]
        for group in task.configure_optimizers()["optimizer"].param_groups
        for parameter in group["params"]
    }
    for name, parameter in realm.named_parameters():
        assert rates[id(parameter)] == {"reader": 1e-3, "towers": 1e-4, "null_bias": 1e-1}[name.split(".")[0]]
