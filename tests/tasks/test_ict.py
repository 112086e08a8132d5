"""The inverse cloze step: a softmax over the batch that no duplicate of the answer spoils."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_world import fit, ict_task

from realm_train.batch import MISSING, IctBatch
from realm_train.data.ict import ClozePairs
from realm_train.tasks.encode import evaluating


@pytest.fixture
def batch(corpus) -> IctBatch:
    return ClozePairs(corpus, keep_rate=0.5, passage_length=64).batch(range(12))


def naive(task, batch) -> tuple[list[float], list[bool]]:
    """-log p(own passage | sentence), leaving out what is no true negative, and whether it scored highest."""
    with evaluating(task):
        queries, passages = task.towers.query(batch.queries).double(), task.towers.passage(batch.passages).double()
    losses, hits = [], []
    for row in range(len(batch)):
        barred = set(batch.exclude[row].tolist())
        counted = [other for other in range(len(batch)) if other == row or int(batch.source[other]) not in barred]
        scores = torch.stack([queries[row] @ passages[other] * task.towers.scale for other in counted])
        losses.append(-scores.log_softmax(0)[counted.index(row)].item())
        hits.append(counted[int(scores.argmax())] == row)
    return losses, hits


@pytest.mark.parametrize("shared", [True, False])
def test_loss_and_hits_are_the_naive_ones(batch, shared):
    task = ict_task(shared=shared)
    if not shared:
        torch.nn.init.normal_(task.towers.query.projection.weight)
    loss, hit = task.outcome(batch)
    losses, hits = naive(task, batch)
    torch.testing.assert_close(loss.double(), torch.tensor(losses).double(), rtol=1e-5, atol=1e-5)
    assert hit.tolist() == hits


def test_near_duplicates_and_the_passage_drawn_twice_are_no_negatives(corpus, batch):
    task = ict_task()
    everyone = dataclasses.replace(batch, exclude=batch.source.expand(12, 12))
    loss, hit = task.outcome(everyone)  # nothing is left to be told apart from
    assert loss.abs().max() == 0 and hit.all()
    nobody = dataclasses.replace(batch, exclude=torch.full_like(batch.exclude, MISSING))
    assert (task.outcome(nobody)[0] > 0).all()
    near = next(passage for passage in range(len(corpus)) if len(corpus.near_duplicates(passage)))
    sources = batch.source.clone()
    exclude = torch.full((12, 4), MISSING)
    exclude[:, 0] = sources
    sources[3], exclude[3, :2] = near, torch.tensor([near, int(corpus.near_duplicates(near)[0])])
    sources[5], exclude[5, 0] = int(corpus.near_duplicates(near)[0]), int(corpus.near_duplicates(near)[0])
    planted = dataclasses.replace(batch, source=sources, exclude=exclude)
    losses, _ = naive(task, planted)
    torch.testing.assert_close(task.outcome(planted)[0].double(), torch.tensor(losses).double(), rtol=1e-5, atol=1e-5)
    assert losses[3] < naive(task, nobody)[0][3]


def test_the_step_logs_accuracy_apart_for_what_was_kept(batch):
    task, logged = ict_task(), []
    task.log_dict = lambda metrics, **_: logged.append(dict(metrics))
    losses, hits = naive(task, batch)
    fit(task, [batch])
    hit, kept = torch.tensor(hits).float(), batch.kept
    expected = {
        "loss": sum(losses) / 12,
        "ict/accuracy": hit.mean().item(),
        "ict/accuracy_kept": hit[kept].mean().item(),
        "ict/accuracy_masked": hit[~kept].mean().item(),
    }
    assert {name: float(value) for name, value in logged[0].items()} == pytest.approx(expected, abs=1e-5)
    assert task.step_tokens == int(batch.queries.lengths.sum() + batch.passages.lengths.sum())
    task = ict_task()
    task.log_dict = lambda metrics, **_: logged.append(dict(metrics))
    fit(task, [dataclasses.replace(batch, kept=torch.ones(12).bool())])
    assert "ict/accuracy_masked" not in logged[-1]


def test_micro_batches_are_averaged(corpus):
    """Each is its own pool of negatives, so the step's loss is the mean of theirs."""
    parts = ClozePairs(corpus, passage_length=64).micro_batches(range(12), 4)
    task = ict_task()
    expected = sum(sum(naive(task, part)[0]) for part in parts) / 12
    before = {name: value.clone() for name, value in task.state_dict().items()}
    reference = ict_task()
    total = sum(reference.outcome(part)[0].mean() for part in parts) / 3
    assert total.item() == pytest.approx(expected, rel=1e-5)
    total.backward()
    task.configure_optimizers = lambda: torch.optim.SGD(task.parameters(), lr=0.1)
    fit(task, parts, accumulate_grad_batches=3)
    for name, parameter in reference.named_parameters():
        change = task.state_dict()[name] - before[name]
        torch.testing.assert_close(change, -0.1 * parameter.grad, rtol=0, atol=1e-6)
    assert task.step_tokens == sum(int(p.queries.lengths.sum() + p.passages.lengths.sum()) for p in parts)
