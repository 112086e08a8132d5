"""The lexical baseline: BM25 over title and text (Robertson and Zaragoza 2009, as Lucene computes it)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from realm_train.batch import MISSING
from realm_train.data.corpus import Corpus
from realm_train.tasks.answering import Retrieved

BLOCK = 50_000  # passages whose text is read at once


class Bm25Retriever:
    """Finds passages by the words that they share with a question; equal scores by lower id, so that nothing depends on
    chance. English stop words do not count, and a passage without a word of the question is not found."""

    name = "BM25"
    recall = 1.0  # it scores every passage

    def __init__(self, corpus: Corpus, *, k1: float = 1.5, b: float = 0.75) -> None:
        import bm25s

        self.index = bm25s.BM25(k1=k1, b=b)
        texts: list[str] = []
        for first in range(0, corpus.count, BLOCK):
            columns = corpus.passages(first, min(first + BLOCK, corpus.count))
            texts += [f"{title} {text}" for title, text in zip(columns["title"], columns["text"], strict=True)]
        self.index.index(_tokenize(texts), show_progress=False)
        self.count = corpus.count

    def __call__(self, questions: Sequence[str], k: int) -> Retrieved:
        """The k best passages of each question; it has no null passage."""
        ids = torch.full((len(questions), k), MISSING)
        scores = torch.full((len(questions), k), -torch.inf)
        for row, words in enumerate(_tokenize(list(questions))):
            best, found = self._best(words, k)
            ids[row, : len(best)], scores[row, : len(best)] = torch.from_numpy(best), torch.from_numpy(found)
        return Retrieved(ids=ids, scores=scores, null=torch.full((len(questions),), -torch.inf))

    def _best(self, words: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
        known = [word for word in words if word in self.index.vocab_dict]
        if not known:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        scores = self.index.get_scores(known)
        least = np.partition(scores, -k)[-k] if k < self.count else 0.0
        found = np.flatnonzero((scores >= least) & (scores > 0))
        best = found[np.lexsort((found, -scores[found]))][:k]
        return best, scores[best]


def _tokenize(texts: list[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
