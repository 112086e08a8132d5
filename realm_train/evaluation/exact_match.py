"""Exact match and F1 of a predicted answer: SQuAD's official normalisation after NFD, as in ORQA's evaluation."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from realm_train.evaluation.matching import compiled

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII's alone, and without a space in its place


def normalised(text: str) -> str:
    """Lower case, NFD, without ASCII punctuation and articles, whitespace made single: "The Who" is "who"."""
    bare = unicodedata.normalize("NFD", text).lower().translate(NO_PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Sequence[str], *, regex: bool = False) -> bool:
    """Whether the prediction is one of the answers once both are normalised.

    With `regex` the answers are patterns that the prediction must begin with, as ORQA scores CuratedTREC; DPR searches
    for them anywhere. Raises BadInput for a pattern that cannot be read.
    """
    if regex:
        return any(pattern.match(prediction) is not None for pattern in map(compiled, answers) if pattern)
    said = normalised(prediction)
    return any(said == normalised(answer) for answer in answers)


def f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 over the answers of the words that prediction and answer have in common; 0 without an answer."""
    said = normalised(prediction).split()
    return max((overlap(said, normalised(answer).split()) for answer in answers), default=0.0)


def overlap(said: Sequence[str], right: Sequence[str]) -> float:
    """F1 of two bags of words; where one is empty, whether both are."""
    if not said or not right:
        return float(said == right)
    common = (Counter(said) & Counter(right)).total()
    return 2 * common / (len(said) + len(right))
