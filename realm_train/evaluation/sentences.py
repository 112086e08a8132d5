"""Held-out sentences before and after training: what was hidden, what was looked up, and what helped."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from realm_train.evaluation.run import Number

MASKS = re.compile(r"(?:\[MASK\]|<mask>)(?:\s*(?:\[MASK\]|<mask>))*")
BEFORE, AFTER = 40, 150  # characters shown on both sides of an answer
FIRST = 3  # passages shown at once, beside those that hold the answer

Example = Mapping[str, Any]


def cards(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> str:
    """The sentences that both evaluations show, one card each; `after` is None while there is only one."""
    later = {_key(example): example for example in after["examples"]} if after else {}
    both = [example for example in before["examples"] if not after or _key(example) in later]
    sides = [(f"before training, step {before['step']}", before)] + (
        [(f"after step {after['step']}", after)] if after else []
    )
    return "".join(
        card(number, [(name, later[_key(example)] if record is after else example) for name, record in sides])
        for number, example in enumerate(both, 1)
    )


def _key(example: Example) -> tuple[Any, str]:
    return example["id"], example["masked"]


def card(number: int, sides: Sequence[tuple[str, Example]]) -> str:
    """One sentence and what each evaluation retrieved for it."""
    example = sides[0][1]
    columns = "".join(side(name, seen) for name, seen in sides)
    return (
        f'<article class="card"><header><span class="number">{number}</span>'
        f'<p class="sentence">{blanked(example["masked"])}</p>'
        f'<p class="hidden">hidden: <mark>{escape(example["answer"])}</mark>'
        f' <span class="source">a sentence of “{escape(example["title"])}”, which may not be retrieved</span></p>'
        "</header>"
        f'<div class="sides">{columns}</div></article>'
    )


def blanked(masked: str) -> str:
    """The sentence with a blank for each run of masks, as long as it has masks."""
    pieces, at = [], 0
    for run in MASKS.finditer(masked):
        count = len(re.findall(r"\[MASK\]|<mask>", run[0]))
        pieces += [escape(masked[at : run.start()]), f'<span class="blank" title="{count} word pieces">']
        pieces += ["&nbsp;" * min(9 * count, 40), "</span>"]
        at = run.end()
    return "".join(pieces) + escape(masked[at:])


def side(name: str, example: Example) -> str:
    """What one evaluation retrieved: its gain over the empty passage, then the candidates, likeliest first."""
    gain = example["log_p"] - example["log_p_null"]
    null, *shown = posterior(example)
    rows = sorted(zip(example["passages"], shown, strict=True), key=lambda row: -row[0]["p"])
    best = max(shown, default=0.0) if gain > 0.05 and max(shown, default=0.0) > null else None
    listed = ["", ""]
    for place, (passage, after) in enumerate(rows):
        folded = place >= FIRST and not passage["has_answer"]
        listed[folded] += candidate(passage, after, example["answer"], carried=after == best)
    more = f"<details class=more><summary>{listed[1].count('<li')} more</summary><ol>{listed[1]}</ol></details>"
    return (
        f'<section><h4>{escape(name)} <span class="gain {"good" if gain > 0.05 else "bad" if gain < -0.05 else ""}"'
        f' title="log p(y|x) − log p(y|x, ∅) = {signed(example["log_p"])} − ({signed(example["log_p_null"])})">'
        f"{signed(gain)} nats</span></h4>"
        f'<ol>{listed[0]}<li class="null">{bars(example["p_null"], null)}<i>the empty passage ∅</i></li></ol>'
        f"{more if listed[1] else ''}</section>"
    )


def posterior(example: Example) -> list[float]:
    """p(z|x,y) over the empty passage and the candidates, in their order: prior times likelihood, normalised."""
    logs = [_log(example["p_null"]) + example["log_p_null"]]
    logs += [_log(passage["p"]) + passage["log_likelihood"] for passage in example["passages"]]
    highest = max(logs)
    weights = [math.exp(value - highest) if highest > -math.inf else 0.0 for value in logs]
    total = sum(weights) or 1.0
    return [weight / total for weight in weights]


def _log(probability: Number) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def signed(value: Number) -> str:
    """Two decimals with a sign, and a minus that is one."""
    return f"{value:+.2f}".replace("-", "−")


def candidate(passage: Mapping[str, Any], shown: Number, answer: str, *, carried: bool) -> str:
    """One passage: both probabilities, its title, and the place where the answer stands."""
    tick = '<span class="tick-mark" title="holds the answer">✓</span>' if passage["has_answer"] else ""
    chip = ' <em title="the highest p(z|x,y)">helped most</em>' if carried else ""
    whole = highlighted(passage["text"], answer) if passage["has_answer"] else escape(passage["text"])
    return (
        f'<li class="{"answer" if passage["has_answer"] else ""}">{bars(passage["p"], shown)}'
        f"<details><summary>{tick}<b>{escape(passage['title'])}</b>{chip} {excerpt(passage, answer)}</summary>"
        f"<p>{whole}</p></details></li>"
    )


def bars(prior: Number, shown: Number) -> str:
    """p(z|x) as a bar, p(z|x,y) as a thin one under it."""
    return (
        f'<div class="bars" title="p(z|x) = {prior:.3f}, p(z|x,y) = {shown:.3f}">'
        f'<span class="p">{_percent(prior)}</span>'
        f'<span class="track"><span class="prior" style="width:{100 * prior:.1f}%"></span>'
        f'<span class="posterior" style="width:{100 * shown:.1f}%"></span></span></div>'
    )


def _percent(probability: Number) -> str:
    return "<1%" if probability < 0.005 else f"{probability:.0%}"


def excerpt(passage: Mapping[str, Any], answer: str) -> str:
    """The words around the answer, or the first ones."""
    text = passage["text"]
    places = find(text, answer) if passage["has_answer"] else []
    start, end = (places[0][0] - BEFORE, places[0][1] + AFTER) if places else (0, BEFORE + AFTER)
    start = text.find(" ", start) + 1 if start > 0 else 0
    end = max(text.rfind(" ", 0, end), places[0][1] if places else 0) if end < len(text) else len(text)
    piece = text[start:end]
    shown = highlighted(piece, answer) if places else escape(piece)
    return f"<span>{'… ' if start else ''}{shown}{' …' if end < len(text) else ''}</span>"


def highlighted(text: str, answer: str) -> str:
    """The text as HTML with every occurrence of the answer marked."""
    pieces, at = [], 0
    for start, end in find(text, answer):
        pieces += [escape(text[at:start]), f"<mark>{escape(text[start:end])}</mark>"]
        at = end
    return "".join(pieces) + escape(text[at:])


def find(text: str, answer: str) -> list[tuple[int, int]]:
    """Where the answer stands as whole words; case, accents and the spaces of decoded word pieces do not count."""
    words = re.findall(r"\w+|[^\w\s]", _folded(answer))
    if not words:
        return []
    pattern = r"(?<!\w)" + r"\s*".join(map(re.escape, words)) + r"(?!\w)"
    return [match.span() for match in re.finditer(pattern, _folded(text))]


def _folded(text: str) -> str:
    """Lower case without accents, character by character, so that places stay the same."""
    bases = (unicodedata.normalize("NFD", character)[0] for character in text)
    return "".join(base.lower() if len(base.lower()) == 1 else base for base in bases)
