"""The in-batch softmax of the inverse cloze task (ORQA, equation 4), with negatives gathered over ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor


def in_batch_softmax(
    queries: Float[Tensor, "B D"],
    passages: Float[Tensor, "N D"],
    positives: Int[Tensor, " B"],
    ignore: Bool[Tensor, "B N"] | None = None,
    scale: float = 1.0,
) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """-log p(positive | query) in nats and whether the positive scored highest, per query.

    `ignore` marks passages that are no true negative of a query (its own passage drawn twice, a near duplicate).
    """
    with torch.autocast(queries.device.type, enabled=False):  # it would multiply in half precision
        scores = queries.float() @ passages.float().T * scale
    rows = torch.arange(len(queries), device=scores.device)
    if ignore is not None:
        ignore = ignore.clone()
        ignore[rows, positives] = False
        scores = scores.masked_fill(ignore, -torch.inf)
    loss = torch.nn.functional.cross_entropy(scores, positives, reduction="none")
    return loss, scores.argmax(dim=1) == positives


def gather_with_gradient(values: Tensor) -> tuple[Tensor, int]:
    """The rows of all ranks in rank order, and where this rank's begin; the gradient flows back to every rank.

    The backward pass of an all-gather sums the ranks' gradients. With the mean over ranks that DDP takes, the gradient
    equals that of one big batch when each rank's loss is the mean over its own queries. All ranks need as many rows.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values, 0
    return _AllGather.apply(values), dist.get_rank() * len(values)


class _AllGather(torch.autograd.Function):
    """Backward sums what all ranks' losses say of this rank's rows."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
