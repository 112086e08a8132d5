"""Where accepted answers stand in passages, as runs of whole words in word pieces: what fine-tuning learns from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import regex
from jaxtyping import Bool, Int, Integer

Run = Integer[np.ndarray, " _"]  # word pieces
FLAGS = regex.IGNORECASE | regex.UNICODE | regex.MULTILINE  # as they are judged by


def answer_runs(tokenizer, answers: Iterable[str]) -> tuple[Run, ...]:
    """The word pieces of every answer, each once, as they are at the start of a text and after a space; left out is an
    answer without any, or with one unknown to the vocabulary, which would stand wherever something else is unknown."""
    texts = [space + answer.strip() for answer in answers for space in ("", " ")]
    pieces = {tuple(one.ids) for one in tokenizer.encode_batch(texts, add_special_tokens=False)}
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
    return tuple(np.array(run, dtype=np.int64) for run in sorted(pieces) if run and unknown not in run)


def surfaces(texts: Iterable[str], patterns: Sequence[str]) -> set[str]:
    """What regular expressions (CuratedTREC's answers) stand for in these texts."""
    compiled = [regex.compile(pattern, FLAGS) for pattern in patterns]
    return {match.group(0) for text in texts for one in compiled for match in one.finditer(text) if match.group(0)}


def occurrences(
    bodies: Int[np.ndarray, "K L"],
    lengths: Int[np.ndarray, " K"],
    runs: Sequence[Run],
    word_starts: Bool[np.ndarray, " V"],
) -> Int[np.ndarray, "_ 3"]:
    """Passage, first piece and last piece of every place where an answer stands as whole words, each place once."""
    count, width = bodies.shape
    columns = np.arange(width)
    # a word ends before a piece that starts one, and at both ends of the body
    ends_before = np.ones((count, width + 1), dtype=bool)
    ends_before[:, 1:width] = (word_starts[bodies] | (columns >= lengths[:, None]))[:, 1:]
    found = [np.empty((0, 3), dtype=np.int64)]
    for run in runs:
        size = len(run)
        if size > width:
            continue
        last = width - size + 1
        stands = ends_before[:, :last] & ends_before[:, size : size + last]
        stands &= columns[:last] + size <= lengths[:, None]
        for offset, piece in enumerate(run):
            stands &= bodies[:, offset : offset + last] == piece
        passage, start = np.nonzero(stands)
        found.append(np.stack([passage, start, start + size - 1], axis=1))
    return np.unique(np.concatenate(found), axis=0)
