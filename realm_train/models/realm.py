"""REALM: p(y|x) = sum_z p(y|z,x) p(z|x) over the null passage and the retrieved ones, both factors differentiable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from realm_train.batch import Candidates, MaskedBatch, Sequences
from realm_train.models.reader import Reader, joint_inputs
from realm_train.models.towers import Towers
from realm_train.objectives.marginal import log_prior


@dataclass(frozen=True)
class RealmOutput:
    """What the objective needs, and what health is read from; slot 0 is the null passage."""

    scores: Float[Tensor, "B K"]
    log_prior: Float[Tensor, "B K"]
    log_likelihood: Float[Tensor, "B K M"]
    present: Bool[Tensor, "B K"]
    vectors: Float[Tensor, "U D"]  # of the distinct passages


class Realm(nn.Module):
    """Towers and reader; candidates and queries are embedded with the live weights, so both towers learn.

    `null_score="tower"` embeds the empty passage like any other; `"learned"` gives it one score for all questions,
    which should start among the candidates' own: see `start_null_at`.
    """

    def __init__(
        self,
        towers: Towers,
        reader: Reader,
        *,
        sep_id: int,
        max_joint_length: int = 384,
        null_score: Literal["tower", "learned"] = "tower",
    ) -> None:
        super().__init__()
        self.towers, self.reader = towers, reader
        self.sep_id, self.max_joint_length = sep_id, max_joint_length
        self.null_bias = nn.Parameter(torch.zeros(())) if null_score == "learned" else None

    def start_null_at(self, score: float) -> None:
        """Sets the learned null score; far below the candidates' scores p(null) is 0 and gets no gradient."""
        if self.null_bias is not None:
            with torch.no_grad():
                self.null_bias.fill_(score)

    def score(
        self, queries: Float[Tensor, "B D"], vectors: Float[Tensor, "U D"], candidates: Candidates
    ) -> Float[Tensor, "B K"]:
        """f(x,z) of every candidate, -inf where there is none; `vectors` are those of the distinct passages."""
        scores = self.towers.scores(queries, vectors[candidates.rows])
        if self.null_bias is not None:
            scores = torch.cat([self.null_bias.expand(len(scores), 1), scores[:, 1:]], dim=1)
        return scores.masked_fill(~candidates.present, -torch.inf)

    def read(self, batch: MaskedBatch, candidates: Candidates) -> Float[Tensor, "B K M"]:
        """log p(y_j|z,x) for every candidate that is present; 0 for the others."""
        question, slot = candidates.present.nonzero(as_tuple=True)
        row = candidates.rows[question, slot]
        queries = Sequences(
            ids=batch.queries.ids[question],
            lengths=batch.queries.lengths[question],
            second=batch.queries.second[question],
        )
        joint = joint_inputs(
            queries,
            candidates.bodies[row],
            candidates.body_lengths[row],
            sep_id=self.sep_id,
            max_length=self.max_joint_length,
        )
        read = self.reader(joint, batch.positions[question], batch.targets[question], batch.valid[question])
        output = read.new_zeros(*candidates.present.shape, batch.positions.shape[1])
        return output.index_put((question, slot), read)

    def forward(
        self, batch: MaskedBatch, candidates: Candidates, queries: Float[Tensor, "B D"] | None = None
    ) -> RealmOutput:
        """Scores, prior and likelihood of every candidate; `queries` are the questions' vectors if already computed."""
        queries = self.towers.query(batch.queries) if queries is None else queries
        vectors = self.towers.passage(candidates.passages)
        scores = self.score(queries, vectors, candidates)
        return RealmOutput(
            scores=scores,
            log_prior=log_prior(scores),
            log_likelihood=self.read(batch, candidates),
            present=candidates.present,
            vectors=vectors,
        )
