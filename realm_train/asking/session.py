"""Questions one after another: typed at a prompt, or one a line from a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from realm_train.errors import BadInput

PROMPT = "? "


def converse(answer: Callable[[str], None]) -> None:
    """Answers every line of standard input until it ends (Ctrl-D); a question that cannot be answered is told, and
    the next one may come."""
    for question in at_prompt() if sys.stdin.isatty() and sys.stdout.isatty() else sys.stdin:
        if not question.strip():
            continue
        try:
            answer(question)
        except BadInput as mistake:
            print(f"error: {mistake}", file=sys.stderr)


def at_prompt() -> Iterator[str]:
    """Lines that a person types, with arrow keys and history."""
    with contextlib.suppress(ImportError):  # Python on Windows has none
        import readline  # noqa: F401 - input() uses it once it is there
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print()
            return
