"""Fine-tuning's step against the sum over every passage of the beam and every span of the passages read."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from qa_steps import BEAM, READ, batch_of, loss_written_out, questions_over, ranking, task_over, terms
from small_world import REAL_WORDS, fit, gradients

from realm_train.batch import MISSING, Neighbours
from realm_train.data.questions import Question
from realm_train.objectives.spans import marginal_choice
from realm_train.tasks.encode import evaluating
from realm_train.tasks.optimizer import Optimization

SETTINGS = [
    {},
    {"null_score": "tower"},
    {"freeze_passages": False, "null_score": "tower"},
    {"read_answer": True},
]
NAMES = ["frozen", "null by the tower", "passages learn", "an answer is read"]


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMES)
def test_loss_and_gradient_are_those_of_the_sum_written_out(corpus, settings):
    task = task_over(corpus, **settings)
    batch = batch_of(corpus, questions_over(task))
    found = [terms(task, batch, row) for row in range(len(batch))]
    taught = [reader is not None for _, reader, _ in found]
    assert taught == [True, True, "read_answer" in settings, False, False]  # or the questions prove too little
    loss = task.training_step(batch, 0)
    loss.backward()
    got, tower = gradients(task), "qa.towers.passage"
    assert task.qa.training
    expected = loss_written_out(task, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    task.zero_grad()
    expected.backward()
    wanted = gradients(task)
    assert any(name.startswith(tower) for name in got) == ("freeze_passages" in settings)
    for name in got.keys() | wanted.keys():
        size = wanted[name].abs().max()
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-3, atol=float(1e-3 * size + 1e-6), msg=name)
    parts = ["qa.towers.query", "qa.span_reader", *([tower] if "freeze_passages" in settings else [])]
    parts += ["qa.null_bias"] if task.qa.null_bias is not None else []
    for part in parts:
        assert any(value.abs().max() > 1e-4 for name, value in got.items() if name.startswith(part)), part


def test_where_nothing_found_holds_an_answer_the_null_passage_is_right(corpus):
    task = task_over(corpus)
    batch = batch_of(corpus, [Question(text="Where is it?", answers=("zzzz nowhere",))])
    task.training_step(batch, 0).backward()
    with evaluating(task):
        scores = [0.7, *(task.retrieval.index.vectors[ranking(task, batch, 0)] @ query_of(task, batch) * 0.3).tolist()]
    p_null = torch.tensor(scores).softmax(0)[0].item()
    assert task.qa.null_bias.grad.item() == pytest.approx(p_null - 1, abs=1e-5)  # the loss's: prior minus posterior
    assert not any(value.any() for name, value in gradients(task.qa.span_reader).items())


def query_of(task, batch):
    return task.towers.query(batch.queries)[0]


def test_a_batch_is_the_mean_of_its_questions_alone(corpus):
    task = task_over(corpus)
    questions = questions_over(task)
    alone = [task.training_step(batch_of(corpus, [question]), 0) for question in questions]
    together = task.training_step(batch_of(corpus, questions), 0)
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-4, atol=1e-5)
    assert len({round(loss.item(), 3) for loss in alone}) == len(questions)


def test_micro_batches_are_one_batch(corpus):
    questions = questions_over(task_over(corpus))[:4]
    whole, parts = task_over(corpus), task_over(corpus, accumulate=2)
    whole.training_step(batch_of(corpus, questions), 0).backward()
    for number in range(2):
        batch = batch_of(corpus, questions[2 * number : 2 * number + 2], step_questions=4)
        (parts.training_step(batch, number) / 2).backward()  # as Lightning divides
    one, other = gradients(whole), gradients(parts)
    assert one.keys() == other.keys() and max(value.abs().max() for value in one.values()) > 1e-2
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_the_vectors_of_a_frozen_tower_are_those_of_the_index_whatever_its_dropout(corpus):
    noisy = REAL_WORDS | {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    task = task_over(corpus, config=noisy, null_score="tower")
    batch = batch_of(corpus, questions_over(task))
    beam = task.retrieval.beam(torch.randn(5, 16), batch)
    vectors = task._vectors(beam)
    assert torch.equal(vectors, task.retrieval.index.vectors[beam.ids]) and not vectors.requires_grad
    with evaluating(task.towers):
        still = task.towers.passage(corpus.sequences(torch.tensor([MISSING]).numpy(), 96))
    assert torch.equal(task._null_vector(), still) and torch.equal(task._null_vector(), still)
    assert task.towers.passage.training and not any(p.requires_grad for p in task.towers.passage.parameters())


class SomeFindNothing:
    """An index whose search finds nothing for some questions of a batch."""

    collective, recall = False, 1.0

    def __init__(self, index, empty: list[int]) -> None:
        self.index, self.empty, self.count, self.dim = index, empty, index.count, index.dim

    def search(self, queries, k, exclude=None) -> Neighbours:
        found = self.index.search(queries, k)
        ids, scores = found.ids.clone(), found.scores.clone()
        ids[self.empty], scores[self.empty] = MISSING, -torch.inf
        return Neighbours(scores=scores, ids=ids)

    def rows(self, ids):
        return self.index.rows(ids)


@pytest.mark.parametrize("freeze", [True, False])
def test_a_question_for_which_no_passage_was_found_teaches_nothing(corpus, freeze):
    task = task_over(corpus, freeze_passages=freeze)
    questions = questions_over(task)[:3]
    expected = task.training_step(batch_of(corpus, questions[1:]), 0) * 2 / 3
    task.retrieval.adopt(SomeFindNothing(task.retrieval.index, [0]))
    loss = task.training_step(batch_of(corpus, questions), 0)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    loss.backward()
    assert all(value.isfinite().all() for value in gradients(task).values())
    task.zero_grad()
    nothing = task.training_step(batch_of(corpus, questions[:1]), 0)  # the null passage is certain
    nothing.backward()
    assert nothing.item() == 0 and not any(value.any() for value in gradients(task).values())


def test_a_reader_that_breaks_is_seen_in_the_loss(corpus):
    task = task_over(corpus)
    batch = batch_of(corpus, questions_over(task))
    task.qa.span_reader.output.weight.data.fill_(torch.nan)
    assert task.training_step(batch, 0).isnan()


def test_metrics_are_of_the_whole_step(corpus):
    task, logged = task_over(corpus), []
    questions = questions_over(task)
    batch = batch_of(corpus, questions)
    with evaluating(task):
        found = [terms(task, batch, row) for row in range(5)]
    readers = [reader for _, reader, _ in found if reader is not None]
    expected = {
        "loss": -sum(float(retriever) for retriever, _, _ in found) / 5 - sum(map(float, readers)) / 5,
        "qa/retriever_loss": -sum(float(retriever) for retriever, _, _ in found) / 5,
        "qa/reader_loss": -sum(map(float, readers)) / len(readers),
        "qa/span_match": sum(hit for _, _, hit in found) / len(readers),
        "qa/answer_in_beam": 4 / 5,
        "qa/answer_in_read": 3 / 5,
    }
    task.log_dict = lambda metrics, **_: logged.append(dict(metrics))
    task.configure_optimizers = lambda: torch.optim.SGD(task.qa.parameters(), lr=0.0)
    parts = [batch_of(corpus, questions[:3], step_questions=5), batch_of(corpus, questions[3:], step_questions=5)]
    fit(task, parts, accumulate_grad_batches=2)
    assert len(logged) == 1 and 0 < logged[0].pop("retrieval/p_null") < 1
    assert logged[0] == pytest.approx(expected, abs=1e-4)


def test_the_search_is_without_dropout(corpus, monkeypatch):
    noisy = REAL_WORDS | {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    task, asked = task_over(corpus, config=noisy), []
    batch, search = batch_of(corpus, questions_over(task)), task.retrieval.search
    monkeypatch.setattr(task.retrieval, "search", lambda queries, k: (asked.append(queries), search(queries, k))[1])
    losses = {task.training_step(batch, 0).item() for _ in range(2)}
    with evaluating(task.towers):
        still = task.towers.query(batch.queries)
    assert len(losses) == 2 and all(torch.equal(queries, still) for queries in asked)


def test_mixed_precision_is_near(corpus):
    task = task_over(corpus)
    batch = batch_of(corpus, questions_over(task))
    exact = task.training_step(batch, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = task.training_step(batch, 0)
    assert mixed.dtype == torch.float32 and mixed.item() == pytest.approx(exact.item(), rel=0.05)


def test_query_tower_reader_and_null_score_step_at_their_own_rates_and_the_frozen_tower_does_not(corpus):
    task = task_over(corpus)
    task.optimization = Optimization(steps=10, lr=1e-3, lr_retriever=1e-4, lr_null=1e-1)
    before = copy.deepcopy(task.qa.state_dict())
    rates = {
        id(parameter): group["initial_lr"]
        for group in task.configure_optimizers()["optimizer"].param_groups
        for parameter in group["params"]
    }
    for name, parameter in task.qa.named_parameters():
        expected = {"span_reader": 1e-3, "towers": 1e-4, "null_bias": 1e-1}[name.split(".")[0]]
        assert rates.get(id(parameter)) == (None if name.startswith("towers.passage") else expected), name
    batch = batch_of(corpus, questions_over(task))
    fit(task, [batch])
    changed = {name.rsplit(".", 1)[0] for name, value in task.qa.state_dict().items() if not value.equal(before[name])}
    assert changed and not any(name.startswith("towers.passage") for name in changed)


def test_the_read_are_the_first_of_the_beam(corpus):
    """What `questions_over` promises of each question, by the task's own retrieval."""
    task = task_over(corpus)
    batch = batch_of(corpus, questions_over(task))
    beam = task.retrieval.beam(task.towers.query(batch.queries), batch)
    assert beam.ids.shape == (5, BEAM) and beam.ids.tolist() == [ranking(task, batch, row) for row in range(5)]
    holds = beam.holds()
    assert holds[:, :READ].any(dim=1).tolist() == [True, True, False, False, True]
    assert holds.any(dim=1).tolist() == [True, True, True, False, True]
    more = dataclasses.replace(batch, answers=tuple(one * 2 for one in batch.answers))
    assert torch.equal(task.retrieval.beam(task.towers.query(more.queries), more).holds(), holds)
    right = torch.cat([~holds.any(dim=1, keepdim=True), holds], dim=1)
    assert marginal_choice(torch.zeros(5, BEAM + 1), right)[1].all()
