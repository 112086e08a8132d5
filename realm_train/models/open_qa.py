"""Open-domain question answering: p(y|x) = sum_z p(y|z,x) p(z|x), y a span of passage z (ORQA, section 3)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from realm_train.batch import Sequences
from realm_train.models.reader import joint_inputs
from realm_train.models.span_reader import SpanReader
from realm_train.models.towers import Towers


class OpenQa(nn.Module):
    """Query tower, passage tower and span reader; the null passage stands for "no passage answers this".

    `null_score` is as REALM's was in pretraining: the vector of the empty passage, or one learned score.
    """

    def __init__(
        self,
        towers: Towers,
        span_reader: SpanReader,
        *,
        sep_id: int,
        max_joint_length: int = 384,
        null_score: Literal["tower", "learned"] = "tower",
    ) -> None:
        super().__init__()
        self.towers, self.span_reader = towers, span_reader
        self.sep_id, self.max_joint_length = sep_id, max_joint_length
        self.null_bias = nn.Parameter(torch.zeros(())) if null_score == "learned" else None

    def scores(
        self,
        queries: Float[Tensor, "B D"],
        vectors: Float[Tensor, "B K D"],
        present: Bool[Tensor, "B K"],
        null: Float[Tensor, "1 D"] | None,
    ) -> Float[Tensor, "B K+1"]:
        """f(x,z) of the null passage, whose vector is `null` where it has one, and of K others; -inf
        where there is none."""
        found = self.towers.scores(queries, vectors).masked_fill(~present, -torch.inf)
        return torch.cat([self.null_scores(queries, null)[:, None], found], dim=1)

    def null_scores(self, queries: Float[Tensor, "B D"], null: Float[Tensor, "1 D"] | None) -> Float[Tensor, " B"]:
        """f(x, null passage)."""
        if self.null_bias is not None:
            return self.null_bias.expand(len(queries))
        return self.towers.scores(queries, null.expand(len(queries), 1, -1))[:, 0]

    def span_scores(
        self, questions: Sequences, bodies: Int[Tensor, "N L"], body_lengths: Int[Tensor, " N"]
    ) -> Float[Tensor, "N L W"]:
        """The reader's score of the span from piece l of each body to piece l + w; -inf where that is not in it."""
        joint = joint_inputs(questions, bodies, body_lengths, sep_id=self.sep_id, max_length=self.max_joint_length)
        scores = self.span_reader(joint)
        columns = joint.second[:, None] + torch.arange(bodies.shape[1], device=bodies.device)
        columns = columns.clamp(max=scores.shape[1] - 1)  # the last [SEP] or padding, where no span begins
        return scores.gather(1, columns[..., None].expand(-1, -1, scores.shape[2]))
