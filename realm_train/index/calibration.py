"""How much an approximate index finds of what exact search finds, and the least effort that finds enough.

Effort has two dials: `width`, how far a search looks (cells probed, nodes visited), and `fetch`, how many candidates
are scored exactly for each passage asked for. Both are tuned on one half of the sampled questions, and the recall that
the manifest states is measured on the other half.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from realm_train.batch import Neighbours
from realm_train.errors import BadInput
from realm_train.index.approximate import ApproximateIndex, Effort, Looker
from realm_train.index.exact import ExactIndex
from realm_train.ports import Index

log = logging.getLogger(__name__)
MOST_FETCH = 64
PRECISION = 16  # a tuned width is at most 1/16 above the least that reaches the target


@dataclass(frozen=True)
class Wanted:
    """The recall@`at` to tune for on `queries` sampled questions, and the `floor` below which an index is refused."""

    target: float
    floor: float
    at: int
    queries: int

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= self.target <= 1:
            raise BadInput(
                f"index: got recall_floor={self.floor} recall_target={self.target}, expected 0 <= floor <= target <= 1"
            )
        if self.at < 1 or self.queries < 2:
            raise BadInput(
                f"index: got recall_at={self.at} queries={self.queries}, expected at least 1 passage and 2 questions"
            )


def calibrate(look: Looker, *, embeddings: np.ndarray, queries: np.ndarray | None, wanted: Wanted) -> dict:
    """Tunes the effort of `look` for `wanted` and returns what the manifest keeps of it.

    Without vectors of real `queries` [Q, D], passages' own vectors with noise stand in, and the manifest says so.
    Raises BadInput if even the greatest effort stays below the floor."""
    sample, origin = _sampled(embeddings, queries, wanted.queries)
    exact = ExactIndex(embeddings, dtype=getattr(torch, str(embeddings.dtype)))

    def index_at(effort: Effort) -> Index:
        return ApproximateIndex(look, embeddings, effort=effort)

    tuning = Exam(index_at, exact, sample[0::2], at=wanted.at)
    effort = _least_effort(tuning, widest=look.widest, target=wanted.target)
    if tuning.mark(effort) < wanted.target:
        log.warning(
            "index: recall@%d is %.3f with the greatest effort, recall_target=%s is out of reach",
            *(wanted.at, tuning.mark(effort), wanted.target),
        )
    final = Exam(index_at, exact, sample[1::2], at=wanted.at)
    recall = final.recall(effort)
    if recall[wanted.at] < wanted.floor:
        raise BadInput(
            f"index: recall@{wanted.at} is {recall[wanted.at]:.3f} at best, below recall_floor={wanted.floor}, on"
            f" {len(final.questions)} {origin}; the last index stays. Take a finer structure (more bits a vector, or"
            " index=exact), or lower index.recall_floor"
        )
    return {
        "recall": {str(k): round(value, 4) for k, value in recall.items()},
        "recall_at": wanted.at,
        "recall_target": wanted.target,
        "queries": len(sample),
        "queries_from": origin,
        "effort": asdict(effort),
        "curve": [{**asdict(tried), "recall": round(value, 4)} for tried, value in tuning.curve.items()],
    }


def calibrated(look: Looker, embeddings: np.ndarray, search: dict) -> ApproximateIndex:
    """The index with the effort and the recall that `calibrate` wrote into the manifest."""
    recall = search["recall"][str(search["recall_at"])]
    return ApproximateIndex(look, embeddings, effort=Effort(**search["effort"]), recall=recall)


class Exam:
    """Questions with the answers of exact search, and the `curve` of what was measured on them."""

    def __init__(
        self, index_at: Callable[[Effort], Index], exact: Index, questions: Float[Tensor, "B D"], *, at: int
    ) -> None:
        self.index_at, self.questions, self.at = index_at, questions, at
        self.truth = exact.search(questions, at)
        self.curve: dict[Effort, float] = {}

    def recall(self, effort: Effort) -> dict[int, float]:
        """Recall at 1, 5 and `at`, for those up to `at`."""
        found = self.index_at(effort).search(self.questions, self.at)
        return {k: recall_at(found, self.truth, k) for k in sorted({1, 5, self.at}) if k <= self.at}

    def mark(self, effort: Effort) -> float:
        """Recall at `at`, measured once for each effort."""
        if effort not in self.curve:
            self.curve[effort] = self.recall(effort)[self.at]
        return self.curve[effort]


def recall_at(found: Neighbours, truth: Neighbours, k: int) -> float:
    """The share of the k best that was found. A passage that ties with the k-th counts as well as the k-th."""
    last = truth.scores[:, :k].masked_fill(truth.scores[:, :k] == -torch.inf, torch.inf).amin(dim=1, keepdim=True)
    hits = int((found.scores[:, :k] >= last).sum())
    there = int((truth.scores[:, :k] > -torch.inf).sum())
    return hits / there if there else 1.0


def _least_effort(exam: Exam, *, widest: int, target: float) -> Effort:
    """The fewest candidates that reach the target at the full width, then the least width that does so with them; the
    best of the efforts tried if none reaches it."""
    fetch = 1
    while exam.mark(Effort(widest, fetch)) < target and fetch < MOST_FETCH:
        fetch *= 2
    if exam.mark(Effort(widest, fetch)) < target:
        return max(exam.curve, key=lambda effort: (exam.curve[effort], -effort.fetch))
    low, high = 0, 1
    while high < widest and exam.mark(Effort(high, fetch)) < target:
        low, high = high, min(2 * high, widest)
    while high - low > max(1, high // PRECISION):
        middle = (low + high) // 2
        low, high = (low, middle) if exam.mark(Effort(middle, fetch)) >= target else (middle, high)
    return Effort(high, fetch)


def _sampled(embeddings: np.ndarray, queries: np.ndarray | None, count: int) -> tuple[Float[Tensor, "Q D"], str]:
    """`count` questions in random order, or stand-ins for them, and which of both they are."""
    generator = np.random.default_rng(0)
    if queries is not None and len(queries):
        _refuse_others(queries, dim=embeddings.shape[1])
        chosen = generator.permutation(len(queries))[:count]
        return torch.from_numpy(queries[chosen].astype(np.float32)), "questions"
    rows = np.sort(generator.integers(0, len(embeddings), count))
    passages = embeddings[rows].astype(np.float32)
    noise = generator.standard_normal(passages.shape, dtype=np.float32) * passages.std(axis=0)
    return torch.from_numpy(generator.permutation(passages + noise)), "passages"


def _refuse_others(queries: np.ndarray, *, dim: int) -> None:
    if queries.ndim != 2 or queries.shape[1] != dim or not np.isfinite(queries).all():
        raise BadInput(
            f"index: got questions of shape {queries.shape} to calibrate with, expected finite vectors"
            f" [questions, {dim}] by the tower that belongs to that of the passages"
        )
