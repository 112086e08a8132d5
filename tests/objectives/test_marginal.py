"""The marginal likelihood on a world small enough to enumerate: 3 documents, 5 words, up to 3 masks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from realm_train.objectives.marginal import (
    entropy,
    log_prior,
    marginal_log_likelihood,
    posterior,
    span_log_likelihood,
)

DOCUMENTS, WORDS = 3, 5
VALID = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0]]).bool()
SPANS = torch.tensor([[0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]])
B, M = VALID.shape
GRANULARITIES = ["token", "span"]


def world(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores [B, K], logits [B, K, M, V] and targets [B, M] of every question, in fp64."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(B, DOCUMENTS, generator=generator, dtype=torch.float64) * 2
    logits = torch.randn(B, DOCUMENTS, M, WORDS, generator=generator, dtype=torch.float64) * 2
    return scores, logits, torch.randint(WORDS, (B, M), generator=generator)


def log_likelihood(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(y_j|z,x) [B, K, M] of the targets."""
    places = targets[:, None, :, None].expand(-1, logits.shape[1], -1, 1)
    return torch.log_softmax(logits, dim=-1).gather(-1, places).squeeze(-1)


def log_p(scores, logits, targets, per, valid=VALID, spans=SPANS) -> torch.Tensor:
    """The code under test, from scores and logits."""
    return marginal_log_likelihood(log_prior(scores), log_likelihood(logits, targets), valid, spans, per)


def softmax(values: list[float]) -> list[float]:
    weights = [math.exp(value) for value in values]
    return [weight / sum(weights) for weight in weights]


def brute_force(scores, logits, targets, per, question: int) -> float:
    """log p(y|x) by the textbook: probabilities, sums over documents, products over masks; no log space, no torch."""
    prior = softmax(scores[question].tolist())
    masks = [mask for mask in range(M) if VALID[question, mask]]
    groups = {}
    for mask in masks:
        groups.setdefault(SPANS[question, mask].item() if per == "span" else ("token", mask), []).append(mask)
    total = 1.0
    for group in groups.values():
        total *= sum(
            prior[z] * math.prod(softmax(logits[question, z, mask].tolist())[targets[question, mask]] for mask in group)
            for z in range(len(prior))
        )
    return math.log(total)


def difference_quotients(function, tensor: torch.Tensor, h: float = 1e-5) -> torch.Tensor:
    """The gradient of a Python function of `tensor`, two evaluations an entry."""
    gradient = torch.zeros_like(tensor)
    for place in itertools.product(*map(range, tensor.shape)):
        kept = tensor[place].item()
        tensor[place] = kept + h
        above = function()
        tensor[place] = kept - h
        gradient[place] = (above - function()) / (2 * h)
        tensor[place] = kept
    return gradient


@pytest.mark.parametrize("per", GRANULARITIES)
@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_enumeration(per, seed):
    scores, logits, targets = world(seed)
    expected = [brute_force(scores, logits, targets, per, question) for question in range(B)]
    torch.testing.assert_close(log_p(scores, logits, targets, per), torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per", GRANULARITIES)
def test_gradients_are_those_of_enumeration(per):
    scores, logits, targets = world()
    expected = [
        difference_quotients(lambda: sum(brute_force(scores, logits, targets, per, q) for q in range(B)), tensor)
        for tensor in (scores, logits)
    ]
    inputs = scores.clone().requires_grad_(), logits.clone().requires_grad_()
    log_p(*inputs, targets, per).sum().backward()
    for tensor, gradient in zip(inputs, expected, strict=True):
        assert gradient.abs().max() > 0.1
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per", GRANULARITIES)
def test_all_answers_together_have_probability_one(per):
    scores, logits, _ = world()
    answers = torch.tensor(list(itertools.product(range(WORDS), repeat=M)))
    one = [scores[:1].expand(len(answers), -1), logits[:1].expand(len(answers), -1, -1, -1), answers, per]
    p = log_p(*one, VALID[:1].expand(len(answers), -1), SPANS[:1].expand(len(answers), -1)).exp()
    assert len(p) == WORDS**M and p.sum().item() == pytest.approx(1, abs=1e-5)


def test_gradient_to_scores_is_posterior_minus_prior():
    scores, logits, targets = world()
    one_span = torch.zeros_like(SPANS)
    likelihood = torch.log_softmax(logits, -1).gather(-1, targets[:, None, :, None].expand(-1, DOCUMENTS, -1, 1))[
        ..., 0
    ]
    scores.requires_grad_()
    prior = log_prior(scores)
    after = posterior(prior, likelihood, VALID)
    gradient = torch.autograd.grad(marginal_log_likelihood(prior, likelihood, VALID, one_span, "span").sum(), scores)[0]
    torch.testing.assert_close(gradient.float(), (after - prior.exp()).detach(), rtol=0, atol=1e-6)
    # the posterior by Bayes' rule, in probabilities
    joint = prior.exp() * torch.where(VALID[:, None], likelihood, 0).exp().prod(dim=-1)
    torch.testing.assert_close(after, (joint / joint.sum(dim=1, keepdim=True)).float(), rtol=0, atol=1e-6)


def test_per_token_each_mask_pulls_with_its_own_posterior():
    scores, logits, targets = world()
    likelihood = torch.log_softmax(logits, -1).gather(-1, targets[:, None, :, None].expand(-1, DOCUMENTS, -1, 1))[
        ..., 0
    ]
    scores.requires_grad_()
    prior = log_prior(scores)
    gradient = torch.autograd.grad(marginal_log_likelihood(prior, likelihood, VALID, SPANS).sum(), scores)[0]
    expected = torch.zeros(B, DOCUMENTS)
    for mask in range(M):
        only = torch.zeros_like(VALID)
        only[:, mask] = VALID[:, mask]
        expected += posterior(prior, likelihood, only) - prior.exp()
    torch.testing.assert_close(gradient.float(), expected, rtol=0, atol=1e-6)


def test_spans_of_one_token_make_no_difference():
    scores, logits, targets = world()
    numbers = torch.arange(M).expand(B, M)
    spans, tokens = (log_p(scores, logits, targets, per, spans=numbers) for per in ("span", "token"))
    torch.testing.assert_close(spans, tokens, rtol=0, atol=1e-6)


def test_two_documents_that_each_explain_one_token():
    """Marginalised a token at a time they explain the span together; as one span neither of them does."""
    likelihood = torch.tensor([[[-0.1, -5.0], [-5.0, -0.1]]])
    both = torch.ones(1, 2).bool()
    values = [
        marginal_log_likelihood(log_prior(torch.zeros(1, 2)), likelihood, both, torch.zeros(1, 2).long(), per).item()
        for per in GRANULARITIES
    ]
    assert values == pytest.approx([2 * math.log((math.exp(-0.1) + math.exp(-5)) / 2), -5.1], abs=1e-5)
    assert values == pytest.approx([-1.57, -5.10], abs=5e-3)


@pytest.mark.parametrize("per", GRANULARITIES)
def test_permuting_the_candidates_changes_nothing(per):
    scores, logits, targets = world()
    order = torch.tensor([2, 0, 1])
    inputs = scores.requires_grad_(), logits.requires_grad_()
    plain = log_p(*inputs, targets, per)
    shuffled = log_p(scores[:, order], logits[:, order], targets, per)
    torch.testing.assert_close(plain, shuffled, rtol=0, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(plain.sum(), inputs), torch.autograd.grad(shuffled.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("per", GRANULARITIES)
def test_identical_passages_are_one_passage(per):
    scores, logits, targets = world()
    same = logits[:, :1].expand(-1, DOCUMENTS, -1, -1)
    alone = log_p(torch.zeros(B, 1), logits[:, :1], targets, per)
    torch.testing.assert_close(log_p(scores, same, targets, per), alone, rtol=0, atol=1e-6)
    # two copies of the last document weigh as much as one whose score is higher by log 2
    doubled = log_p(torch.cat([scores, scores[:, -1:]], 1), torch.cat([logits, logits[:, -1:]], 1), targets, per)
    heavier = scores + torch.tensor([0, 0, math.log(2)])
    torch.testing.assert_close(doubled, log_p(heavier, logits, targets, per), rtol=0, atol=1e-6)


@pytest.mark.parametrize("per", GRANULARITIES)
@pytest.mark.parametrize("slot", range(DOCUMENTS))
def test_a_missing_candidate_is_inert(per, slot):
    scores, logits, targets = world()
    others = [z for z in range(DOCUMENTS) if z != slot]
    missing = scores.clone()
    missing[:, slot] = -torch.inf
    inputs = missing.requires_grad_(), logits.requires_grad_()
    value = log_p(*inputs, targets, per)
    torch.testing.assert_close(value, log_p(scores[:, others], logits[:, others], targets, per), rtol=0, atol=1e-6)
    rest = scores[:, others].requires_grad_(), logits[:, others].detach().requires_grad_()
    expected = torch.autograd.grad(log_p(*rest, targets, per).sum(), rest)
    for got, want in zip(torch.autograd.grad(value.sum(), inputs), expected, strict=True):
        assert (got[:, slot] == 0).all() and got.isfinite().all()
        torch.testing.assert_close(got[:, others], want, rtol=0, atol=1e-6)


def test_the_null_slot_gets_gradient():
    scores, logits, targets = world()
    log_p(scores.requires_grad_(), logits, targets, "token").sum().backward()
    assert (scores.grad[VALID.any(dim=1), 0].abs() > 1e-3).all()
    torch.testing.assert_close(scores.grad.sum(dim=1), torch.zeros(B).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("per", GRANULARITIES)
def test_a_question_without_masks_is_certain_and_teaches_nothing(per):
    scores, logits, targets = world()
    inputs = scores.requires_grad_(), logits.requires_grad_()
    value = log_p(*inputs, targets, per)
    assert value[2] == 0 and (value[VALID.any(dim=1)] < 0).all()
    value.sum().backward()
    assert all((tensor.grad[2] == 0).all() and tensor.grad.isfinite().all() for tensor in inputs)


@pytest.mark.parametrize("per", GRANULARITIES)
@pytest.mark.parametrize("questions, masks", [(2, 0), (0, 3), (2, 3)])
def test_a_batch_without_any_mask_is_certain(per, questions, masks):
    scores = torch.randn(questions, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    likelihood, nothing = torch.zeros(questions, 2, masks), torch.zeros(questions, masks)
    value = marginal_log_likelihood(log_prior(scores), likelihood, nothing.bool(), nothing.long(), per)
    value.sum().backward()
    assert value.tolist() == [0] * questions and (scores.grad == 0).all()


@pytest.mark.parametrize("per", GRANULARITIES)
def test_what_stands_where_no_mask_is_does_not_matter(per):
    scores, _, _ = world()
    likelihood = -torch.rand(B, DOCUMENTS, M, generator=torch.Generator().manual_seed(1))
    other = torch.where(VALID[:, None], likelihood, 123.0)
    one, two = (marginal_log_likelihood(log_prior(scores), x, VALID, SPANS, per) for x in (likelihood, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("per", GRANULARITIES)
def test_a_single_passage_is_read_alone(per):
    _, logits, targets = world()
    scores = torch.full((B, 1), 7.0, requires_grad=True)
    value = log_p(scores, logits[:, :1], targets, per)
    expected = torch.where(VALID, log_likelihood(logits[:, :1], targets)[:, 0], 0).sum(dim=1)
    torch.testing.assert_close(value, expected.float(), rtol=0, atol=1e-5)
    value.sum().backward()
    assert (scores.grad.abs() < 1e-6).all()


@pytest.mark.parametrize("per", GRANULARITIES)
def test_autocast_changes_no_bit(per):
    scores, logits, targets = world()
    scores, logits = (scores * 20).bfloat16(), logits.bfloat16()
    likelihood = log_likelihood(logits.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = marginal_log_likelihood(log_prior(scores), likelihood, VALID, SPANS, per)
    plain = marginal_log_likelihood(log_prior(scores.float()), likelihood, VALID, SPANS, per)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)


def test_spans_add_up_their_masks():
    likelihood = -torch.rand(B, DOCUMENTS, M, generator=torch.Generator().manual_seed(1))
    sums, exists = span_log_likelihood(likelihood, VALID, SPANS)
    for question, span in itertools.product(range(B), range(2)):
        masks = [mask for mask in range(M) if VALID[question, mask] and SPANS[question, mask] == span]
        assert exists[question, span] == bool(masks)
        torch.testing.assert_close(sums[question, :, span], likelihood[question][:, masks].sum(dim=1))


def test_entropy_is_that_of_the_probabilities():
    scores = torch.tensor([[0.0, 0.0, 0.0, -torch.inf], [100.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.5, -1.0]])
    p = torch.softmax(scores[2].double(), 0)
    expected = [math.log(3), 0.0, -(p * p.log()).sum().item()]
    assert entropy(log_prior(scores)).tolist() == pytest.approx(expected, abs=1e-6)
