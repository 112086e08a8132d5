"""Whether a text holds an answer: three definitions, by name, whose figures cannot be compared with each other.

tokens     as DPR: words (letters, numbers, marks) and single other symbols, NFD, lower case; the answer's stand in the
           text's in one piece
substring  as ORQA: the answer's characters stand in the text's; case matters, and "us" stands in "house"
regex      as DPR for CuratedTREC: the answer is a pattern that is searched for, whatever the case, NFD
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import regex

from realm_train.errors import BadInput

Matching = Literal["tokens", "substring", "regex"]

TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
BETWEEN = "\n"  # a control character, so no token has it
CACHED = 1 << 15  # texts kept prepared: some 60 MB of passages of a hundred words


class AnswerMatcher:
    """Tells whether texts hold answers; a text that comes again is not prepared again."""

    def __init__(self, how: Matching | str) -> None:
        if how not in get_args(Matching):
            raise BadInput(f"matching: got {how!r}, expected one of {', '.join(get_args(Matching))}")
        self.how = how
        prepare_text, prepare_answer, self._found = KINDS[how]
        self._text = lru_cache(CACHED)(prepare_text)
        self._answer = lru_cache(CACHED)(prepare_answer)

    def holds(self, text: str, answers: Sequence[str]) -> bool:
        """Whether one of the answers stands in the text; an answer without a token stands nowhere.

        Raises BadInput for a pattern that cannot be read.
        """
        prepared = self._text(text)
        return any(self._found(self._answer(answer), prepared) for answer in answers)


def token_run(text: str) -> str:
    """The tokens of a text, each between two separators: a run of tokens is a substring of another's."""
    tokens = TOKEN.findall(unicodedata.normalize("NFD", text))
    return f"{BETWEEN}{BETWEEN.join(tokens).lower()}{BETWEEN}" if tokens else ""


def compiled(pattern: str) -> regex.Pattern | None:
    """The pattern of a regular expression, None for an empty one; raises BadInput for one that cannot be read."""
    if not pattern:
        return None
    try:
        return regex.compile(pattern, regex.IGNORECASE | regex.UNICODE | regex.MULTILINE)
    except regex.error as error:
        raise BadInput(
            f"the answer {pattern!r} is no regular expression ({error}); mend it in the questions"
        ) from error


KINDS: dict[str, tuple[Callable[[str], str], Callable[[str], Any], Callable[[Any, str], bool]]] = {
    "tokens": (token_run, token_run, lambda answer, text: bool(answer) and answer in text),
    "substring": (str, str, lambda answer, text: bool(answer) and answer in text),
    "regex": (
        lambda text: unicodedata.normalize("NFD", text),
        lambda answer: compiled(unicodedata.normalize("NFD", answer)),
        lambda pattern, text: pattern is not None and pattern.search(text) is not None,
    ),
}
