"""The reader's ceiling: what it makes of the best-ranked passage of all those that hold an answer."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

import torch

from realm_train.batch import MISSING
from realm_train.data.corpus import Corpus
from realm_train.data.questions import Question
from realm_train.tasks.answering import Retrieved, Retriever

BLOCK = 50_000  # passages whose text is searched at once


class OraclePassages:
    """Looks for the answer among the `depth` best passages of a retriever; where none holds it, and `everywhere`, in
    every passage of the corpus, and takes of those that do the one that the retriever ranks best."""

    def __init__(
        self,
        retriever: Retriever,
        corpus: Corpus,
        holds: Callable[[str, Question], bool],
        *,
        depth: int = 100,
        everywhere: bool = True,
    ) -> None:
        self.retriever, self.corpus, self.holds = retriever, corpus, holds
        self.depth, self.everywhere = min(depth, corpus.count), everywhere
        self._block = lru_cache(1)(self._read_block)  # all of a small corpus is read once

    def __call__(self, questions: Sequence[Question]) -> Retrieved:
        """One passage for each question, with nothing to choose from: MISSING where no passage holds an answer."""
        found = self._ranked(questions, self.depth)
        left = [row for row, passage in enumerate(found) if passage == MISSING and self.everywhere]
        holders = self.holders([questions[row] for row in left])
        for row, passages in zip(left, holders, strict=True):
            if passages:
                found[row] = self._best(questions[row], passages)
        ids = torch.tensor(found, dtype=torch.int64).reshape(-1, 1)
        return Retrieved(
            ids=ids,
            scores=torch.where(ids == MISSING, -torch.inf, 0.0),
            null=torch.full((len(questions),), -torch.inf),
        )

    def _ranked(self, questions: Sequence[Question], k: int) -> list[int]:
        ids = self.retriever([question.text for question in questions], k).ids.tolist()
        return [
            next((one for one in row if one != MISSING and self._holds(one, question)), MISSING)
            for row, question in zip(ids, questions, strict=True)
        ]

    def _holds(self, passage: int, question: Question) -> bool:
        return self.holds(self.corpus.passage(passage)["text"], question)

    def _best(self, question: Question, passages: list[int]) -> int:
        """The one that the retriever ranks best; the first if its search does not reach as far as any of them."""
        if len(passages) == 1:
            return passages[0]
        ranked = self.retriever([question.text], self.corpus.count).ids[0].tolist()
        among = set(passages)
        return next((passage for passage in ranked if passage in among), passages[0])

    def holders(self, questions: Sequence[Question]) -> list[list[int]]:
        """The passages of the corpus that hold an answer of each question."""
        held: list[list[int]] = [[] for _ in questions]
        for first in range(0, self.corpus.count, BLOCK):
            block = self._block(first)
            for row, question in enumerate(questions):
                may = block.may_hold(question)
                held[row] += [first + number for number in may if self.holds(block.texts[number], question)]
        return held

    def _read_block(self, first: int) -> _FoldedTexts:
        return _FoldedTexts(self.corpus.passages(first, min(first + BLOCK, self.corpus.count))["text"])


class _FoldedTexts:
    """Texts as one string without case and composed accents, to rule out at the speed of `str.find` most of those that
    do not hold an answer."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        folded = [_folded(text) for text in texts]
        self.text = "\n".join(folded)
        self.starts = [0, *accumulate(len(text) + 1 for text in folded)]

    def may_hold(self, question: Question) -> list[int]:
        """Every text that can hold an answer: that has its longest word in it, and all texts for a pattern."""
        longest = [max(re.findall(r"\w+", _folded(answer)), key=len, default="") for answer in question.answers]
        if question.regex or "" in longest:
            return list(range(len(self.starts) - 1))
        return sorted({number for word in longest for number in self._with(word)})

    def _with(self, word: str) -> Iterator[int]:
        place = self.text.find(word)
        while place >= 0:
            number = bisect_right(self.starts, place) - 1
            yield number
            place = self.text.find(word, self.starts[number + 1])


def _folded(text: str) -> str:
    return unicodedata.normalize("NFD", text).casefold()
