"""The in-batch softmax against the naive matrix, and two ranks against one big batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from two_ranks import on_two_ranks

from realm_train.objectives.contrastive import gather_with_gradient, in_batch_softmax

QUERIES, PASSAGES, WIDTH = 4, 6, 8
POSITIVES = torch.tensor([0, 2, 2, 5])


def vectors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) for rows in (QUERIES, PASSAGES))


def some_ignored() -> torch.Tensor:
    ignore = torch.zeros(QUERIES, PASSAGES).bool()
    ignore[0, 1] = ignore[0, 0] = ignore[2, 3] = ignore[3, 0] = True  # [0, 0] is a positive, which always counts
    return ignore


def naive(queries, passages, ignore, scale) -> torch.Tensor:
    """-log p(positive | query), an entry of the matrix at a time, in fp64."""
    losses = []
    for query, positive in enumerate(POSITIVES.tolist()):
        counted = [z for z in range(len(passages)) if z == positive or ignore is None or not ignore[query, z]]
        scores = torch.stack([scale * torch.dot(queries[query], passages[z]) for z in counted])
        losses.append(-torch.log(scores.exp()[counted.index(positive)] / scores.exp().sum()))
    return torch.stack(losses)


@pytest.mark.parametrize("ignore", [None, some_ignored()], ids=["all", "some ignored"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_loss_and_gradient_are_those_of_the_naive_matrix(ignore, scale):
    queries, passages = vectors()
    inputs = queries.requires_grad_(), passages.requires_grad_()
    expected = naive(*inputs, ignore, scale)
    loss, _ = in_batch_softmax(*inputs, POSITIVES, ignore, scale)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])  # so that errors of different rows cannot cancel
    gradients = torch.autograd.grad((loss * weights).sum(), inputs)
    for got, want in zip(gradients, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_hit_is_the_highest_score_among_what_counts():
    queries = torch.eye(4)
    passages = torch.tensor([[1.0, 0, 9, 0], [2, 0, 0, 0], [0, 3, 4, 0], [0, 1, 0, 0], [0, 0, 0, 5], [0, 0, 0, 6]])
    assert in_batch_softmax(queries, passages, POSITIVES)[1].tolist() == [False, True, False, True]
    ignore = torch.zeros(4, 6).bool()
    ignore[0, 1] = ignore[2, 0] = True
    assert in_batch_softmax(queries, passages, POSITIVES, ignore)[1].tolist() == [True, True, True, True]


def test_an_ignored_passage_is_as_good_as_absent():
    queries, passages = vectors()
    ignore = torch.zeros(QUERIES, PASSAGES).bool()
    ignore[:, 4] = True
    inputs = queries.requires_grad_(), passages.requires_grad_()
    loss, _ = in_batch_softmax(*inputs, POSITIVES, ignore)
    others = torch.tensor([0, 1, 2, 3, 5])
    without, _ = in_batch_softmax(queries, passages[others], torch.tensor([0, 2, 2, 4]))
    torch.testing.assert_close(loss, without, rtol=0, atol=1e-6)
    assert (torch.autograd.grad(loss.sum(), passages)[0][4] == 0).all()
    assert not ignore[torch.arange(QUERIES), POSITIVES].any() and ignore.sum() == QUERIES  # the mask is left as it was


def test_permuting_queries_or_passages_permutes_the_result():
    queries, passages = vectors()
    ignore = some_ignored()
    loss, hit = in_batch_softmax(queries, passages, POSITIVES, ignore)
    rows, columns = torch.tensor([3, 1, 0, 2]), torch.tensor([5, 0, 4, 1, 3, 2])
    moved, moved_hit = in_batch_softmax(
        queries[rows], passages[columns], torch.argsort(columns)[POSITIVES[rows]], ignore[rows][:, columns]
    )
    torch.testing.assert_close(moved, loss[rows], rtol=0, atol=1e-6)
    assert torch.equal(moved_hit, hit[rows])


def test_autocast_changes_no_bit():
    queries, passages = (rows.float() * 5 for rows in vectors())
    plain, _ = in_batch_softmax(queries, passages, POSITIVES)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = in_batch_softmax(queries, passages, POSITIVES)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)


def test_one_process_gathers_its_own():
    values = torch.randn(3, 2, requires_grad=True, generator=torch.Generator().manual_seed(0))
    gathered, first = gather_with_gradient(values)
    assert gathered is values and first == 0


def two_towers() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A query map and a passage map as one module, and the inputs of the big batch."""
    torch.manual_seed(0)
    towers = torch.nn.ModuleList([torch.nn.Linear(WIDTH, 5, bias=bias) for bias in (True, False)])
    return towers, torch.randn(6, WIDTH), torch.randn(6, WIDTH)


def gradients_of(towers, queries, passages, rows: slice) -> list[torch.Tensor]:
    """The gradient of the mean loss of some rows, against the passages of all ranks."""
    gathered, first = gather_with_gradient(towers[1](passages[rows]))
    positives = first + torch.arange(len(queries[rows]))
    in_batch_softmax(towers[0](queries[rows]), gathered, positives)[0].mean().backward()
    return [parameter.grad for parameter in towers.parameters()]


def one_rank() -> dict:
    towers, queries, passages = two_towers()
    rank = dist.get_rank()
    gradients = gradients_of(towers, queries, passages, slice(3 * rank, 3 * rank + 3))
    for gradient in gradients:  # what DDP does
        dist.all_reduce(gradient)
        gradient /= 2
    numbers, first = gather_with_gradient(torch.arange(2) + 10 * rank)
    return {"gradients": gradients, "numbers": numbers.tolist(), "first": first}


def test_two_ranks_give_the_gradient_of_one_big_batch(tmp_path):
    expected = gradients_of(*two_towers(), slice(None))
    results = on_two_ranks(one_rank, tmp_path)
    for result in results:
        for got, want in zip(result["gradients"], expected, strict=True):
            assert want.abs().max() > 1e-3
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)
    assert [result["numbers"] for result in results] == [[0, 1, 10, 11]] * 2
    assert [result["first"] for result in results] == [0, 2]
