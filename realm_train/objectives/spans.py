"""The marginal likelihood of open-domain question answering (ORQA, section 5; REALM, section 3.2).

    p(y|x) = sum over correct choices of a softmax over all choices

The choices are passages where the retriever learns, and the spans of all passages read where the reader does; a span's
score is the reader's own plus f(x,z) of its passage, so the reader's loss teaches the retriever too.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def marginal_choice(
    scores: Float[Tensor, "B C"], correct: Bool[Tensor, "B C"]
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """log p of each question's correct choices in nats and fp32, and whether it has any; 0, without a gradient, where
    it has none. A score of -inf is no choice, and never a correct one; NaN stays NaN."""
    scores = scores.float()
    any_correct = correct.any(dim=1)
    # a row without a correct choice is put in the place of its whole: the difference is 0, and no NaN comes back
    chosen = scores.masked_fill(~(correct | ~any_correct[:, None]), -torch.inf)
    present = ~scores.isneginf().all(dim=1)
    scores, chosen = (torch.where(present[:, None], values, 0.0) for values in (scores, chosen))
    return torch.logsumexp(chosen, dim=1) - torch.logsumexp(scores, dim=1), any_correct
