"""The page of answers: one self-contained HTML document, the same with and without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from realm_train.asking.answered import Answered, Shown
from realm_train.asking.look import SCRIPT
from realm_train.asking.look import STYLE as MORE_STYLE
from realm_train.evaluation.style import STYLE

BEFORE, AROUND = 90, 360  # characters of an excerpt: before the answer, and in all

KEY = (
    '<div class="key"><span><span class="prior"></span>p(z|x): how much the retriever trusts the passage</span>'
    '<span><span class="posterior"></span>the reader\'s best answer in it</span></div>'
)
KEYS = (
    '<span class="keys"><kbd>Enter</kbd> asks, <kbd>↑</kbd> <kbd>↓</kbd> earlier questions, <kbd>/</kbd> back to the'
    " question</span>"
)


def page(
    names: Sequence[str], *, answers: Sequence[Answered] = (), remarks: Sequence[str] = (), problem: str = ""
) -> str:
    """The whole page: the question, and the answers of the runs of these names beside each other; `remarks` say what
    the runs are, `problem` why there is no answer."""
    question = answers[0].question if answers else ""
    parts = [
        f'<p class="eyebrow">realm-train · ask · {" · ".join(f"<code>{escape(name)}</code>" for name in names)}</p>',
        '<form action="/" role="search"><input name="question" aria-label="question" placeholder="Ask the corpus"'
        f' value="{escape(question)}" autocomplete="off" maxlength="2000" required autofocus>'
        "<button>Ask</button></form>",
        f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else "",
        f'<div id="answers" aria-live="polite">{card(answers) if answers else first(len(names))}</div>',
        KEY,
        *(f'<p class="remark">{escape(remark)}</p>' for remark in remarks),
        f"<footer>{KEYS}</footer>",
    ]
    title = f"{question} · realm-train" if question else "Ask · realm-train"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{MORE_STYLE}</style>"
    )
    body = f'<main class="ask{" two" if len(names) > 1 else ""}">{"".join(parts)}</main><script>{SCRIPT}</script>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def first(runs: int) -> str:
    """What the page says before the first question."""
    said = "The answer, the passages it comes from, and how much each of them counts."
    return f'<p class="lead first">{said}{" Both runs answer, side by side." if runs > 1 else ""}</p>'


def card(answers: Sequence[Answered]) -> str:
    """One question and what each run says to it."""
    question = escape(answers[0].question)
    between = f'<p class="remark">{escape(compared(*answers))}</p>' if len(answers) > 1 else ""
    sides = "".join(side(answered, named=len(answers) > 1) for answered in answers)
    return (
        f'<article class="card answered" data-question="{question}"><h2>{question}</h2>{between}'
        f'<div class="sides{"" if len(answers) > 1 else " one"}">{sides}</div></article>'
    )


def compared(one: Answered, other: Answered) -> str:
    """What two runs have in common."""
    texts = [{(shown.title, shown.text) for shown in answered.passages} for answered in (one, other)]
    both = texts[0] & texts[1]
    passages = f"{len(both)} of {max(len(one.passages), len(other.passages))} passages are found by both"
    said = [answered.answer for answered in (one, other)]
    if None in said:
        return f"{passages}."
    same = said[0].casefold() == said[1].casefold()
    return f"{'The answers agree' if same else 'The answers differ'}; {passages}."


def side(answered: Answered, *, named: bool) -> str:
    """What one run says: its answer, the passages with their probabilities, and p(null)."""
    source = answered.source()
    rows = "".join(row(shown, source=place == source) for place, shown in enumerate(answered.passages))
    null = f"{bars(answered.p_null, None)}<i>p(null): the empty passage ∅, no help from the corpus</i>"
    exact = answered.index_recall
    search = "" if exact >= 1.0 else f'<p class="remark">The search finds {exact:.1%} of what exact search finds.</p>'
    return (
        f"<section>{f'<h4>{escape(answered.run)}</h4>' if named else ''}{verdict(answered)}"
        f'<ol>{rows}<li class="null">{null}</li></ol>{search}</section>'
    )


def verdict(answered: Answered) -> str:
    """The answer, or what there is instead."""
    if answered.answer is not None:
        text, tone, note = answered.answer, "", f"p {percent(answered.p or 0.0)}"
    elif answered.guess is not None:
        text, tone, note = answered.guess, " guess", "a guess of the masked language model, which read no passage"
    else:
        text, tone, note = "no answer", " none", "" if answered.passages else "nothing was retrieved"
    return f'<p class="answer-line{tone}">{escape(text)}{f"<small>{note}</small>" if note else ""}</p>'


def row(shown: Shown, *, source: bool) -> str:
    """One passage; the one that the answer comes from is open."""
    return (
        f"<li{' class=source-of' if source else ''}>{bars(shown.p, shown.span_p, score=shown.score)}"
        f"<details{' open' if source else ''}><summary><b>{escape(shown.title)}</b> <span>{excerpt(shown)}</span>"
        f"</summary><p>{marked(shown, 0, len(shown.text))}</p></details></li>"
    )


def bars(p: float, span_p: float | None, *, score: float | None = None) -> str:
    """p(z|x) as a bar, and the probability of the passage's answer as a thin one under it."""
    hint = [f"p(z|x) = {p:.3f}"]
    hint += [] if score is None else [f"score {score:.2f}"]
    hint += [] if span_p is None else [f"its answer: {span_p:.3f}"]
    below = "" if span_p is None else f'<span class="posterior" style="width:{100 * span_p:.1f}%"></span>'
    return (
        f'<div class="bars" title="{", ".join(hint)}"><span class="p">{percent(p)}</span>'
        f'<span class="track"><span class="prior" style="width:{100 * p:.1f}%"></span>{below}</span></div>'
    )


def percent(p: float) -> str:
    """A probability in whole percent."""
    return "<1%".replace("<", "&lt;") if p < 0.005 else f"{p:.0%}"


def excerpt(shown: Shown) -> str:
    """The words around the passage's answer, or the first ones."""
    text, (first, last) = shown.text, shown.span or (0, 0)
    start, end = 0, len(text)
    if end > AROUND and first > BEFORE:
        start = text.find(" ", first - BEFORE, first) + 1 or first - BEFORE
    if end - start > AROUND:
        end = max(text.rfind(" ", start + AROUND // 2, start + AROUND), last)
        end = end if end > start else start + AROUND  # no spaces: a script that is written without them
    return f"{'… ' if start else ''}{marked(shown, start, end)}{' …' if end < len(text) else ''}"


def marked(shown: Shown, start: int, end: int) -> str:
    """A piece of the passage as HTML, its answer marked."""
    if shown.span is None:
        return escape(shown.text[start:end])
    first, last = shown.span
    before, span, after = shown.text[start:first], shown.text[first:last], shown.text[last:end]
    return f"{escape(before)}<mark>{escape(span)}</mark>{escape(after)}"
