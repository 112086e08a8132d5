"""An answer in a terminal, in colour; plain lines where the output is piped."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from realm_train.asking.answered import Answered, Shown

BAR = 12  # columns of a whole probability
EIGHTHS = " ▏▎▍▌▋▊▉█"
CONTROL = dict.fromkeys([*range(32), *range(127, 160)], " ")  # what a passage must not say to a terminal


def show(answered: Answered, console: Console) -> None:
    """Prints an answer with its passages."""
    if console.is_terminal and not console.is_dumb_terminal:
        coloured(answered, console)
    else:
        for line in plain(answered):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def plain(answered: Answered) -> Iterator[str]:
    """One line for the answer, two for each passage, its answer in [brackets]."""
    yield f"{clean(answered.question)}  ({clean(answered.run)})"
    yield verdict(answered)
    for place, shown in enumerate(answered.passages, 1):
        before, span, after = parts(shown)
        yield f"{place}. {clean(shown.title)}  {figures(shown)}"
        yield f"   {before}{f'[{span}]' if span else ''}{after}"
    yield f"p(null) {answered.p_null:.3f}{search(answered)}"


def coloured(answered: Answered, console: Console) -> None:
    """The same with bars, and the answer highlighted in its passage."""
    answer = Text(verdict(answered), style="bold green" if answered.answer is not None else "yellow")
    console.print(answer, Text(clean(answered.run), style="dim"), sep="  ")
    for place, shown in enumerate(answered.passages, 1):
        title = Text.assemble(bar(shown.p), (f"  {place} ", "dim"), (clean(shown.title), "bold"))
        console.print(title, Text(figures(shown), style="dim"), sep="  ")
        before, span, after = parts(shown)
        style = "bold black on yellow" if place - 1 == answered.source() else "bold underline yellow"
        console.print(Padding(Text.assemble(before, (span, style), after), (0, 0, 0, BAR + 2)))
    null = f"  ∅ p(null) {answered.p_null:.3f}{search(answered)}"
    console.print(Text.assemble(bar(answered.p_null), (null, "dim")))


def verdict(answered: Answered) -> str:
    """The answer in one line, or what there is instead."""
    if answered.answer is not None:
        return f"{clean(answered.answer)}  p {answered.p:.3f}"
    if answered.guess is not None:
        return f"{clean(answered.guess)}  (a guess of the masked language model, which read no passage)"
    return "no answer" if answered.passages else "no answer: nothing was retrieved"


def figures(shown: Shown) -> str:
    """The numbers of a passage."""
    span = "" if shown.span_p is None else f"  span p {shown.span_p:.3f}"
    return f"p(z|x) {shown.p:.3f}  score {shown.score:.2f}{span}"


def search(answered: Answered) -> str:
    """How exact the search was, where it was not."""
    exact = answered.index_recall
    return "" if exact >= 1.0 else f"  the search finds {exact:.1%} of what exact search finds"


def parts(shown: Shown) -> tuple[str, str, str]:
    """The passage's text before its answer, the answer, and the text after it."""
    start, end = shown.span or (len(shown.text), len(shown.text))
    return clean(shown.text[:start]), clean(shown.text[start:end]), clean(shown.text[end:])


def clean(text: str) -> str:
    """The text without control characters, which could repaint a terminal or change its title."""
    return text.translate(CONTROL)


def bar(p: float) -> Text:
    """A probability as a bar, whole at 1."""
    eighths = round(8 * BAR * min(max(p, 0.0), 1.0))
    whole, rest = divmod(eighths, 8)
    return Text(("█" * whole + EIGHTHS[rest]).ljust(BAR)[:BAR], style="blue")
