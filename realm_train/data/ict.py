"""The inverse cloze task: a sentence asks for the passage it was taken from (ORQA, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from realm_train.batch import MISSING, IctBatch, Sequences
from realm_train.data.corpus import Corpus
from realm_train.data.masked import Example, MaskedSentences, padded, with_specials
from realm_train.data.sampling import Shuffle, documents_held_out, example_rng
from realm_train.errors import BadInput


@dataclass(frozen=True)
class Cloze:
    """A pseudo-question and its passage; `kept` if the sentence was left in the passage."""

    query: np.ndarray
    title: np.ndarray
    body: np.ndarray
    kept: bool
    passage: int
    exclude: np.ndarray  # passages that are no negative for the query: [E]


class ClozePairs:
    """Endless (sentence, passage) pairs; passages of one sentence are left out, for nothing would remain of them.

    With `across`, a share of the pairs is drawn from there instead: a masked sentence, and a passage of elsewhere that
    holds what is masked. REALM asks the retriever for just that, the cloze task for the sentence's own passage.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        query_length: int = 64,
        passage_length: int = 288,
        keep_rate: float = 0.1,
        min_length: int = 4,
        heldout_percent: float = 2.0,
        heldout: bool = False,
        seed: int = 0,
        across: MaskedSentences | None = None,
        across_rate: float = 0.5,
    ) -> None:
        for name, rate in {"keep_rate": keep_rate, "across_rate": across_rate}.items():
            if not 0 <= rate <= 1:
                raise BadInput(f"{name}: got {rate}, expected a probability")
        self.across, self.across_rate = across, across_rate
        self.corpus, self.keep_rate, self.seed = corpus, keep_rate, seed
        self.query_length, self.passage_length, self.min_length = query_length, passage_length, min_length
        usable = documents_held_out(corpus.documents, heldout_percent) == heldout
        passages = np.flatnonzero(usable & (corpus.sentence_counts() >= 2))
        if not len(passages):
            raise BadInput(f"{corpus.folder}: no passage of two sentences or more; ICT needs longer passages")
        self.order = Shuffle(passages, seed)

    def __getitem__(self, position: int) -> Cloze:
        rng = example_rng(self.seed, position)
        if self.across is not None and rng.random() < self.across_rate:
            example = self.across[position]
            if example.helpful != MISSING:
                return self._elsewhere(example)
        passage = self.order[position]
        sentences = self.corpus.sentences(passage)[:, 2:4]
        long_enough = np.flatnonzero(sentences[:, 1] - sentences[:, 0] >= self.min_length)
        start, end = sentences[rng.choice(long_enough) if len(long_enough) else rng.integers(len(sentences))].tolist()
        kept = bool(rng.random() < self.keep_rate)
        body = self.corpus.body(passage).astype(np.int64)
        return Cloze(
            query=body[start:end][: self.query_length - 2],
            title=self.corpus.title(passage).astype(np.int64),
            body=body if kept else np.concatenate([body[:start], body[end:]]),
            kept=kept,
            passage=passage,
            exclude=np.append(self.corpus.near_duplicates(passage), passage),
        )

    def _elsewhere(self, example: Example) -> Cloze:
        return Cloze(
            query=example.masked.tokens[: self.query_length - 2],
            title=self.corpus.title(example.helpful).astype(np.int64),
            body=self.corpus.body(example.helpful).astype(np.int64),
            kept=False,
            passage=example.helpful,
            exclude=np.append(example.exclude, example.helpful),
        )

    def batch(self, positions: Sequence[int]) -> IctBatch:
        """The pairs of `positions` as one padded batch."""
        pairs = [self[position] for position in positions]
        return IctBatch(
            queries=with_specials([pair.query for pair in pairs], self.corpus),
            passages=self._passages(pairs),
            kept=torch.tensor([pair.kept for pair in pairs]),
            source=torch.tensor([pair.passage for pair in pairs]),
            exclude=padded([pair.exclude for pair in pairs], fill=MISSING),
        )

    def _passages(self, pairs: Sequence[Cloze]) -> Sequences:
        cls_id, sep_id = [self.corpus.cls_id], [self.corpus.sep_id]
        titles = [pair.title[: self.passage_length - 3] for pair in pairs]
        rows = [
            np.concatenate([cls_id, title, sep_id, pair.body[: self.passage_length - 3 - len(title)], sep_id])
            for title, pair in zip(titles, pairs, strict=True)
        ]
        return Sequences(
            ids=padded(rows, fill=self.corpus.pad_id),
            lengths=torch.tensor([len(row) for row in rows]),
            second=torch.tensor([len(title) + 2 for title in titles]),
        )

    def micro_batches(self, positions: Sequence[int], size: int) -> list[IctBatch]:
        """The pairs of one step in batches of `size`; each batch is its own pool of negatives."""
        return [self.batch(positions[start : start + size]) for start in range(0, len(positions), size)]
