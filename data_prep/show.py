"""Looking at data is a feature: an example on screen, sentence by sentence, its spans underlined."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence


def show_example(
    *,
    heading: str,
    text: str,
    sentences: Iterable[Sequence[int]] = (),
    spans: Iterable[tuple[int, int, str]] = (),
    console=None,
) -> None:
    """Prints `text` under `heading`; a bar stands before each sentence, spans `(start, end, label)` are underlined.

    Offsets are characters of `text`. Where the output is no terminal, spans stand in brackets: [Paris](GPE).
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    console.print(Text(f"\n{heading}", style="bold"), soft_wrap=True)
    console.print(marked(text, sentences=sentences, spans=spans, styled=console.is_terminal), soft_wrap=True)


def marked(
    text: str,
    *,
    sentences: Iterable[Sequence[int]] = (),
    spans: Iterable[tuple[int, int, str]] = (),
    styled: bool = True,
):
    """A rich Text: `│` before each sentence, spans underlined and followed by their label."""
    from rich.text import Text

    spans = [(int(start), int(end), label) for start, end, label in spans]
    starts = {int(sentence[0]) for sentence in sentences}
    cuts = sorted({0, len(text), *starts, *(edge for start, end, _ in spans for edge in (start, end))})
    pieces = []
    for start, end in itertools.pairwise(cuts):
        label = next((label for first, last, label in spans if first <= start and end <= last), None)
        if start in starts:
            pieces.append(("│ ", "cyan"))
        if label is None:
            pieces.append(text[start:end])
        elif styled:
            pieces += [(text[start:end], "underline bold"), (f" {label}", "dim magenta")]
        else:
            pieces.append(f"[{text[start:end]}]({label})")
    return Text.assemble(*pieces)
