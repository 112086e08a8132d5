"""Which sentences a stage has trained on: drawn again, for a draw is a pure function of seed and position.

Only draws that can concern the passages asked about are repeated; a sentence is known by its word pieces, so that it is
the same one in a near duplicate of its passage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Integer

from realm_train.batch import MISSING
from realm_train.data.corpus import Corpus
from realm_train.data.ict import ClozePairs
from realm_train.data.masked import MaskedSentences
from realm_train.data.masking import eligible
from realm_train.data.sampling import example_rng

Pieces = Integer[np.ndarray, " T"]


def sentence_key(pieces: Pieces) -> bytes:
    """What equal sentences have in common."""
    return np.asarray(pieces, dtype=np.int64).tobytes()


def drawn_sentences(stream: ClozePairs | MaskedSentences, count: int, passages: Iterable[int]) -> set[bytes]:
    """The keys of the sentences of these passages that are in the first `count` examples of a stage, as a sentence of
    the passage itself or of one of its near duplicates."""
    corpus = stream.corpus
    wanted = np.zeros(corpus.count, dtype=bool)
    for passage in passages:
        wanted[[passage, *corpus.near_duplicates(passage).tolist()]] = True
    taken = cloze_sentences if isinstance(stream, ClozePairs) else masked_sentences
    return {
        key
        for passage, pieces, longest in taken(stream, count, wanted)
        if wanted[passage]
        for key in whole_sentences(corpus, passage, pieces, longest)
    }


def masked_sentences(stream: MaskedSentences, count: int, wanted: np.ndarray) -> Iterator[tuple[int, Pieces, int]]:
    """Passage, word pieces and longest length of the sentences that were masked."""
    look = wanted | ~always_serves_itself(stream, count)
    for position in range(count):
        if look[stream.order[position]]:
            example = stream[position]
            yield example.passage, example.masked.original, stream.max_pieces


def cloze_sentences(stream: ClozePairs, count: int, wanted: np.ndarray) -> Iterator[tuple[int, Pieces, int]]:
    """The same of the sentences that asked for a passage."""
    look = wanted if stream.across is None else wanted | ~always_serves_itself(stream.across, count)
    for position in range(count):
        if stream.across is not None and look[stream.across.order[position]] and _from_across(stream, position):
            example = stream.across[position]
            yield example.passage, example.masked.original, stream.across.max_pieces
        elif wanted[stream.order[position]] and not _from_across(stream, position):
            pair = stream[position]
            yield pair.passage, pair.query, stream.query_length - 2


def _from_across(stream: ClozePairs, position: int) -> bool:
    """Whether the pair of a position is a masked sentence and a passage from elsewhere."""
    if stream.across is None or example_rng(stream.seed, position).random() >= stream.across_rate:
        return False
    return stream.across[position].helpful != MISSING


def always_serves_itself(stream: MaskedSentences, count: int) -> np.ndarray:
    """Passages with a sentence that can be masked whatever the random numbers, so that none ever stands in for them:
    [N]. Of those that are never drawn in `count` positions nothing is said."""
    serves = np.zeros(stream.corpus.count, dtype=bool)
    for position in range(min(count, len(stream.order.items))):
        passage = stream.order[position]
        serves[passage] = any(
            _can_be_masked(stream, passage, row) for row in range(len(stream.corpus.sentences(passage)))
        )
    return serves


def _can_be_masked(stream: MaskedSentences, passage: int, row: int) -> bool:
    corpus, masking = stream.corpus, stream.masking
    start, end = corpus.sentences(passage)[row, 2:4].tolist()
    if not stream.min_length <= end - start <= stream.max_pieces:  # of a longer one, what is cut out is left to chance
        return False
    spans = corpus.spans(passage) if masking.needs_spans else np.zeros((0, 6), np.int32)
    inside = spans[spans[:, 0] == row, 3:5].astype(np.int64) - start
    pieces = corpus.body(passage)[start:end].astype(np.int64)
    return eligible(masking, pieces, corpus.word_starts[pieces], inside, corpus.mask_id)


def whole_sentences(corpus: Corpus, passage: int, taken: Pieces, longest: int) -> Iterator[bytes]:
    """The keys of the sentences of a passage that `taken` is, or is cut from where it is as long as cuts are."""
    body = corpus.body(passage)
    for start, end in corpus.sentences(passage)[:, 2:4].tolist():
        pieces = body[start:end].astype(np.int64)
        if len(pieces) == len(taken) or (len(taken) == longest < len(pieces)):
            runs = np.lib.stride_tricks.sliding_window_view(pieces, len(taken))
            if (runs == taken).all(axis=1).any():
                yield sentence_key(pieces)
