"""Pure measures of what was retrieved: recall, overlap, and whether a passage holds a run of tokens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Integer

from realm_train.batch import MISSING


def recall_at(hits: Bool[np.ndarray, "B K"], k: int) -> float:
    """Share of questions with a hit among their k best passages; 0 for no question."""
    return float(hits[:, :k].any(axis=1).mean()) if len(hits) else 0.0


def overlap_at(first: Int[np.ndarray, "B K"], second: Int[np.ndarray, "B K"], k: int) -> float:
    """Mean share of the k best passages that two searches have in common, of those that the first one found."""
    shares = []
    for one, other in zip(first[:, :k], second[:, :k], strict=True):
        found = set(one.tolist()) - {MISSING}
        if found:
            shares.append(len(found & set(other.tolist())) / len(found))
    return float(np.mean(shares)) if shares else 1.0


def holds_run(tokens: Integer[np.ndarray, " T"], run: Integer[np.ndarray, " R"]) -> bool:
    """Whether `run` stands in `tokens` in one piece; an empty run stands nowhere."""
    tokens, run = np.ascontiguousarray(tokens, np.int32), np.ascontiguousarray(run, np.int32)
    if not len(run):
        return False
    haystack, needle = tokens.tobytes(), run.tobytes()
    found = haystack.find(needle)
    while found >= 0 and found % 4:
        found = haystack.find(needle, found + 1)
    return found >= 0


def holds_answer(
    tokens: Integer[np.ndarray, " T"], answer: Integer[np.ndarray, " R"], word_starts: Bool[np.ndarray, " V"]
) -> bool:
    """Whether the answer stands in the tokens as whole words (as DPR matches; uncased if the tokenizer is)."""
    size = len(answer)
    if not 0 < size <= len(tokens):
        return False
    runs = np.lib.stride_tricks.sliding_window_view(tokens, size)
    starts = np.flatnonzero((runs == answer).all(axis=1))
    ends_word = np.append(word_starts[tokens], True)
    return bool((ends_word[starts + size] & ends_word[starts]).any())
