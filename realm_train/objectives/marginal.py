"""The marginal likelihood over passages (REALM, equations 1 and 2), and what it says of the retriever.

    p(y|x) = sum_z p(y|z,x) p(z|x)        p(z|x) = softmax_z f(x,z)

Everything is fp32 and in log space: logits are never mixed. Slot 0 is the null passage by convention, but nothing here
depends on it; a slot whose score is -inf (a missing passage) is inert.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Granularity = Literal["token", "span"]


def log_prior(scores: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """log p(z|x) in nats over the K candidates, renormalised over them (REALM, section 3.2)."""
    return torch.log_softmax(scores.float(), dim=-1)


def span_log_likelihood(
    log_likelihood: Float[Tensor, "B K M"], valid: Bool[Tensor, "B M"], spans: Int[Tensor, "B M"]
) -> tuple[Float[Tensor, "B K S"], Bool[Tensor, "B S"]]:
    """Sums log p(y_j|z,x) over the masks j of each span s, and says which spans exist; S is the largest number + 1."""
    count = int(spans.max()) + 1 if spans.numel() else 1
    member = torch.nn.functional.one_hot(spans, count).bool() & valid.unsqueeze(-1)
    # a sum, not a product of matrices: autocast would take that in half precision
    sums = torch.where(member[:, None], log_likelihood.unsqueeze(-1), 0.0).sum(dim=2)
    return sums, member.any(dim=1)


def marginal_log_likelihood(
    log_prior: Float[Tensor, "B K"],
    log_likelihood: Float[Tensor, "B K M"],
    valid: Bool[Tensor, "B M"],
    spans: Int[Tensor, "B M"],
    per: Granularity = "token",
) -> Float[Tensor, " B"]:
    """log p(y|x) of each question in nats, summed over its masks; 0 for a question without any.

    `per="token"` marginalises each masked token on its own, as the published code does; `per="span"` marginalises the
    whole span, p(y|x) = sum_z p(z|x) prod_j p(y_j|z,x), as the paper writes it.
    """
    log_likelihood = log_likelihood.float()
    if per == "span":
        log_likelihood, valid = span_log_likelihood(log_likelihood, valid, spans)
    elif per != "token":
        raise ValueError(f"per: got {per!r}, expected 'token' or 'span'")
    log_likelihood = torch.where(valid[:, None], log_likelihood, 0.0)
    marginal = torch.logsumexp(log_prior.float()[:, :, None] + log_likelihood, dim=1)
    return torch.where(valid, marginal, 0.0).sum(dim=-1)


def posterior(
    log_prior: Float[Tensor, "B K"], log_likelihood: Float[Tensor, "B K M"], valid: Bool[Tensor, "B M"]
) -> Float[Tensor, "B K"]:
    """p(z|x,y), all masks of a question as one span; d log p(y|x) / d f(x,z) = p(z|x,y) - p(z|x) (appendix A)."""
    joint = torch.where(valid[:, None], log_likelihood.float(), 0.0).sum(dim=-1)
    return torch.softmax(log_prior.float() + joint, dim=-1)


def entropy(log_prior: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """Entropy of p(z|x) in nats; candidates of probability 0 add nothing."""
    return -torch.where(log_prior.isneginf(), 0.0, log_prior * log_prior.exp()).sum(dim=-1)
