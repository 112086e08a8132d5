"""Masked sentences for pretraining: which sentence, what is masked in it, what may not be retrieved for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from realm_train.batch import MISSING, MaskedBatch, ReadingBatch, Sequences
from realm_train.data.corpus import Corpus
from realm_train.data.masking import Masked, Masking, window
from realm_train.data.oracle import Oracle
from realm_train.data.sampling import Shuffle, documents_held_out, example_rng
from realm_train.errors import BadInput


@dataclass(frozen=True)
class Example:
    """One masked sentence and the passage that it comes from."""

    masked: Masked
    passage: int
    exclude: np.ndarray  # the passage and its near duplicates: [E]
    helpful: int = MISSING


class MaskedSentences:
    """Endless masked sentences of a corpus; position -> example is a pure function of the seed.

    An example is a passage of the shuffled order, one of its maskable sentences at random, and a mask in it. A passage
    without a maskable sentence gives way to another one, drawn at random. `heldout=True` serves the documents that
    training never takes sentences from (their passages can still be retrieved). With an `oracle`, an example names
    a passage that is known to hold what is masked.
    """

    def __init__(
        self,
        corpus: Corpus,
        masking: Masking,
        *,
        query_length: int = 64,
        min_length: int = 8,
        heldout_percent: float = 2.0,
        heldout: bool = False,
        seed: int = 0,
        oracle: Oracle | None = None,
    ) -> None:
        self.corpus, self.masking, self.seed, self.oracle = corpus, masking, seed, oracle
        self.max_pieces, self.min_length = query_length - 2, min_length
        usable = documents_held_out(corpus.documents, heldout_percent) == heldout
        usable &= (corpus.span_counts() if masking.needs_spans else corpus.sentence_counts()) > 0
        passages = np.flatnonzero(usable)
        if not len(passages):
            raise BadInput(
                f"{corpus.folder}: no {'held-out ' if heldout else ''}passage with something to mask;"
                " use a larger corpus, another heldout_percent, or masking=token"
            )
        self.order = Shuffle(passages, seed)

    def __getitem__(self, position: int) -> Example:
        rng = example_rng(self.seed, position)
        passage = self.order[position]
        for _ in range(1000):
            masked = self._mask_a_sentence(passage, rng)
            if masked is not None:
                exclude = np.append(self.corpus.near_duplicates(passage), passage)
                helpful = (
                    self.oracle.passage(masked.answer(), masked.original, exclude, rng) if self.oracle else MISSING
                )
                return Example(masked, passage, exclude, helpful)
            passage = int(self.order.items[rng.integers(len(self.order.items))])
        raise BadInput(
            f"{self.corpus.folder}: no sentence of {self.min_length} pieces or more can be masked in 1000 passages;"
            " lower min_length or raise max_masks"
        )

    def _mask_a_sentence(self, passage: int, rng: np.random.Generator) -> Masked | None:
        body = self.corpus.body(passage)
        sentences = self.corpus.sentences(passage)
        spans = self.corpus.spans(passage) if self.masking.needs_spans else np.zeros((0, 6), np.int32)
        for sentence in rng.permutation(len(sentences)):
            start, end = sentences[sentence, 2:4].tolist()
            if end - start < self.min_length:
                continue
            inside = spans[spans[:, 0] == sentence, 3:5].astype(np.int64) - start
            tokens, inside = self._cut(body[start:end].astype(np.int64), inside, rng)
            masked = self.masking(tokens, self.corpus.word_starts[tokens], inside, rng, self.corpus.mask_id)
            if masked is not None:
                return masked
        return None

    def _cut(self, tokens: np.ndarray, spans: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A window of a sentence that is too long, around one of its spans if it has any, and the spans inside it."""
        if len(tokens) <= self.max_pieces:
            return tokens, spans
        around = spans[rng.integers(len(spans))] if len(spans) else np.array([0, 1])
        start, end = window(len(tokens), (int(around[0]), int(around[1])), self.max_pieces)
        inside = (spans[:, 0] >= start) & (spans[:, 1] <= end)
        return tokens[start:end], spans[inside] - start

    def batch(self, positions: Sequence[int], *, step_masks: int | None = None) -> MaskedBatch:
        """The examples of `positions` as one padded batch."""
        return self.collate([self[position] for position in positions], step_masks=step_masks)

    def collate(self, examples: Sequence[Example], *, step_masks: int | None = None) -> MaskedBatch:
        """One padded batch; `step_masks` is the count of masks in the whole step if the batch is only a part of it."""
        masked = [example.masked for example in examples]
        queries = with_specials([m.tokens for m in masked], self.corpus)
        originals = with_specials([m.original for m in masked], self.corpus)
        valid = padded([np.ones(len(m.positions), bool) for m in masked], fill=0).bool()
        return MaskedBatch(
            queries=queries,
            original_ids=originals.ids,
            positions=padded([m.positions + 1 for m in masked], fill=0),
            targets=padded([m.targets for m in masked], fill=0),
            valid=valid,
            spans=padded([m.spans for m in masked], fill=0),
            source=torch.tensor([example.passage for example in examples]),
            exclude=padded([example.exclude for example in examples], fill=MISSING),
            helpful=torch.tensor([example.helpful for example in examples]),
            step_masks=int(valid.sum()) if step_masks is None else step_masks,
        )

    def micro_batches(self, positions: Sequence[int], size: int) -> list[MaskedBatch]:
        """The examples of one step in batches of `size`, each knowing how many masks the whole step holds."""
        examples = [self[position] for position in positions]
        masks = sum(len(example.masked.positions) for example in examples)
        return [
            self.collate(examples[start : start + size], step_masks=masks) for start in range(0, len(examples), size)
        ]


class ReadingSentences:
    """Masked sentences with the bodies of their helpful passages: what a reader without a head is warmed on."""

    def __init__(self, sentences: MaskedSentences, *, body_length: int) -> None:
        self.sentences, self.body_length = sentences, body_length

    def micro_batches(self, positions: Sequence[int], size: int) -> list[ReadingBatch]:
        """The examples of one step in batches of `size`, each knowing how many masks the whole step holds."""
        return [self._with_bodies(batch) for batch in self.sentences.micro_batches(positions, size)]

    def _with_bodies(self, batch: MaskedBatch) -> ReadingBatch:
        bodies, lengths = self.sentences.corpus.bodies(batch.helpful.numpy(), self.body_length)
        return ReadingBatch(masked=batch, bodies=bodies, body_lengths=lengths)


def padded(rows: Sequence[np.ndarray], *, fill: int) -> torch.Tensor:
    """Rows of different lengths as one int64 tensor."""
    table = np.full((len(rows), max((len(row) for row in rows), default=0)), fill, dtype=np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)


def with_specials(rows: Sequence[np.ndarray], corpus: Corpus) -> Sequences:
    """`[CLS] x [SEP]`, one segment."""
    rows = [np.concatenate([[corpus.cls_id], row, [corpus.sep_id]]) for row in rows]
    lengths = torch.tensor([len(row) for row in rows])
    return Sequences(ids=padded(rows, fill=corpus.pad_id), lengths=lengths, second=lengths)
