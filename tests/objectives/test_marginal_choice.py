"""The marginal likelihood of correct choices against sums written out; its gradient is posterior minus prior."""

import math

import pytest
import torch

from realm_train.objectives.spans import marginal_choice


def random_choices(rows=6, choices=9, seed=0, spread=3.0):
    """Scores with some -inf among them, and correct choices among the finite ones; the last row has none."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, choices, generator=generator) * spread
    scores[torch.rand(rows, choices, generator=generator) < 0.2] = -torch.inf
    scores[:, 0] = 0.5  # every row has one choice at least
    correct = (torch.rand(rows, choices, generator=generator) < 0.4) & scores.isfinite()
    correct[:, 0] |= ~correct.any(dim=1)
    correct[-1] = False
    return scores, correct


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_sum_of_the_correct_probabilities(seed):
    scores, correct = random_choices(seed=seed)
    log_p, answered = marginal_choice(scores, correct)
    for row in range(len(scores)):
        weights = [math.exp(score) for score in scores[row].tolist()]
        right = sum(weight for weight, yes in zip(weights, correct[row].tolist(), strict=True) if yes)
        assert bool(answered[row]) == (right > 0)
        assert log_p[row].item() == pytest.approx(math.log(right / sum(weights)) if right else 0.0, abs=1e-5)


def test_the_gradient_is_posterior_minus_prior():
    scores, correct = random_choices()
    scores.requires_grad_()
    log_p, answered = marginal_choice(scores, correct)
    log_p.sum().backward()
    prior = scores.detach().softmax(dim=1)
    posterior = scores.detach().masked_fill(~correct, -torch.inf).softmax(dim=1)
    expected = torch.where(answered[:, None], posterior - prior, torch.zeros(()))
    torch.testing.assert_close(scores.grad, expected, rtol=0, atol=1e-6)


def test_where_nothing_is_correct_nothing_is_lost_and_nothing_learnt():
    scores = torch.tensor([[1.0, -torch.inf, 3.0], [-torch.inf] * 3, [2.0, 1.0, 0.0]], requires_grad=True)
    correct = torch.tensor([[False] * 3, [False] * 3, [True, False, False]])
    log_p, answered = marginal_choice(scores, correct)
    assert answered.tolist() == [False, False, True] and log_p[:2].tolist() == [0.0, 0.0] and log_p[2] < 0
    log_p.sum().backward()
    assert not scores.grad[:2].any() and scores.grad.isfinite().all() and scores.grad[2].any()


def test_all_choices_correct_is_certainty():
    scores = torch.tensor([[5.0, -torch.inf, -80.0]])
    assert marginal_choice(scores, scores.isfinite())[0].item() == 0.0


def test_a_score_that_is_not_a_number_is_not_hidden():
    scores = torch.tensor([[torch.nan, torch.nan], [0.0, torch.nan], [0.0, 1.0]])
    log_p, _ = marginal_choice(scores, torch.tensor([[True, False]] * 3))
    assert log_p.isnan().tolist() == [True, True, False]


def test_the_order_of_choices_and_a_shift_of_all_scores_change_nothing():
    scores, correct = random_choices(rows=8, choices=12)
    log_p, answered = marginal_choice(scores, correct)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled, same = marginal_choice(scores[:, order], correct[:, order])
    torch.testing.assert_close(shuffled, log_p, rtol=0, atol=1e-5)
    torch.testing.assert_close(marginal_choice(scores + 3.0, correct)[0], log_p, rtol=0, atol=1e-5)
    assert torch.equal(answered, same)


def test_scores_far_apart_and_of_half_precision_are_summed_in_fp32():
    scores = torch.tensor([[0.0, 200.0, 199.0]])
    log_p, _ = marginal_choice(scores, torch.tensor([[True, False, False]]))
    assert log_p.item() == pytest.approx(-200.0 - math.log1p(math.exp(-1.0)), rel=1e-6)
    halves = torch.randn(3, 400, generator=torch.Generator().manual_seed(0)).bfloat16()
    correct = torch.arange(400) % 7 == 0
    got, _ = marginal_choice(halves, correct.expand(3, 400))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, halves.float().softmax(1)[:, correct].sum(1).log(), rtol=1e-5, atol=1e-5)
