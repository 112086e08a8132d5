"""The records that cross floors: padded sequences, masked batches, ICT batches, neighbours.

Axes: B questions, K passages, M masks, T tokens, N sequences, E excluded passages.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

MISSING = -1  # the id of "no passage here"; its score is -inf


class Record:
    """Moves every tensor of a dataclass at once."""

    def to(self, device, non_blocking: bool = False):
        """The same record with its tensors on `device`."""
        moved = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in fields(self)
            if hasattr(value := getattr(self, field.name), "to")
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Sequences(Record):
    """Padded token sequences with special tokens; row n is `ids[n, :lengths[n]]`, its second segment begins at
    `second[n]`."""

    ids: Int[Tensor, "N T"]
    lengths: Int[Tensor, " N"]
    second: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class MaskedBatch(Record):
    """Masked sentences `[CLS] x [SEP]`, what was masked, and which passages may not be retrieved for them."""

    queries: Sequences
    original_ids: Int[Tensor, "B T"]  # the queries before masking: to find leaks, and to show
    positions: Int[Tensor, "B M"]  # of the masks in the query; 0 where `valid` is false
    targets: Int[Tensor, "B M"]
    valid: Bool[Tensor, "B M"]
    spans: Int[Tensor, "B M"]  # which masked span of its sentence a mask belongs to
    source: Int[Tensor, " B"]  # the passage that the sentence comes from
    exclude: Int[Tensor, "B E"]  # the source and its near duplicates, padded with MISSING
    helpful: Int[Tensor, " B"]  # a passage known to hold what is masked, or MISSING
    step_masks: int  # masks in the whole optimiser step on this rank, for the loss's denominator

    def __len__(self) -> int:
        return len(self.queries)

    def answers(self) -> list[Int[Tensor, " R"]]:
        """The first masked run of each question, unmasked: what a retrieved passage should hold."""
        answers = []
        for original, positions, valid in zip(self.original_ids, self.positions, self.valid, strict=True):
            masked = positions[valid].tolist()
            run = [position for step, position in enumerate(masked) if position == masked[0] + step]
            answers.append(original[run])
        return answers


@dataclass(frozen=True)
class ReadingBatch(Record):
    """Masked sentences, each with the body of its helpful passage (empty where there is none)."""

    masked: MaskedBatch
    bodies: Int[Tensor, "B L"]
    body_lengths: Int[Tensor, " B"]

    def __len__(self) -> int:
        return len(self.masked)


@dataclass(frozen=True)
class QuestionBatch(Record):
    """Questions `[CLS] x [SEP]`, and what answers each: any of some strings, or what regular expressions match."""

    queries: Sequences
    answers: tuple[tuple[str, ...], ...]
    regex: tuple[bool, ...]
    step_questions: int  # in the whole optimiser step on this rank, for the loss's denominator

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class IctBatch(Record):
    """Inverse cloze task: row b's query is a sentence of row b's passage (ORQA, section 5)."""

    queries: Sequences
    passages: Sequences
    kept: Bool[Tensor, " B"]  # the sentence was left in its passage
    source: Int[Tensor, " B"]
    exclude: Int[Tensor, "B E"]  # passages that are no negative for the query: the source and its near duplicates

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class Candidates(Record):
    """The passages that a batch reads, each distinct one once; slot 0 of every question is the null passage."""

    ids: Int[Tensor, "B K"]  # passage ids; MISSING in the null slot and where there is no passage
    present: Bool[Tensor, "B K"]  # true in the null slot, false where there is no passage
    rows: Int[Tensor, "B K"]  # row of `passages` and `bodies`; row 0 is the null passage
    passages: Sequences  # passage tower's inputs
    bodies: Int[Tensor, "U L"]  # for the joint input, without special tokens
    body_lengths: Int[Tensor, " U"]

    def of_passages(self, values: Float[Tensor, "U D"]) -> tuple[Int[Tensor, " P"], Float[Tensor, "P D"]]:
        """Ids of the distinct passages, and their rows of what was computed for each; the null passage is left out."""
        ids = torch.full_like(self.body_lengths, MISSING)
        ids[self.rows] = self.ids
        return ids[ids != MISSING], values[ids != MISSING]


@dataclass(frozen=True)
class Neighbours(Record):
    """Search results, best first: higher is better, -inf and MISSING where there is none."""

    scores: Float[Tensor, "B K"]
    ids: Int[Tensor, "B K"]
