import unicodedata

import numpy as np
import pytest
import regex

from realm_train.errors import BadInput
from realm_train.evaluation.matching import AnswerMatcher


def words(text):
    """DPR's tokens, one by one, by the categories of their characters."""
    tokens, inside = [], False
    for char in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(char)[0]
        if kind in "LNM" and inside:
            tokens[-1] += char
        elif kind not in "ZC":
            tokens.append(char)
        inside = kind in "LNM"
    return [token.lower() for token in tokens]


def dpr(text, answers):
    """DPR's has_answer as its paper tells it: a loop over all places; an answer without a token is none."""
    text = words(text)
    for answer in filter(None, map(words, answers)):
        if any(text[start : start + len(answer)] == answer for start in range(len(text))):
            return True
    return False


PIECES = [
    "the",
    "The",
    " ",
    "-",
    "1",
    "10",
    "\u00e9",
    "e\u0301",
    "\u00c9",
    "ß",
    "Σ",
    "ς",
    "日本",
    "\n",
    "\t",
    "\xa0",
    "'",
    "s",
    "$",
    "_",
]


def test_tokens_are_matched_as_a_loop_over_all_places_does():
    rng = np.random.default_rng(0)
    matcher = AnswerMatcher("tokens")
    outcomes = []
    for _ in range(4000):
        text = "".join(rng.choice(PIECES, size=rng.integers(0, 12)))
        start, end = sorted(rng.integers(0, len(text) + 1, size=2))
        answers = ["".join(rng.choice(PIECES, size=rng.integers(0, 4))), text[start:end].upper()][: rng.integers(0, 3)]
        outcomes.append(dpr(text, answers))
        assert matcher.holds(text, answers) == outcomes[-1], (text, answers)
    assert 300 < sum(outcomes) < 2000


@pytest.mark.parametrize(
    ("text", "answer", "tokens", "substring"),
    [
        ("He lives in the house.", "us", False, True),  # ORQA's false positive
        ("Made in the US.", "us", True, False),  # and its false negative
        ("It ended in 1945.", "194", False, True),
        ("Beyoncé sang", unicodedata.normalize("NFD", "Beyoncé"), True, False),
        ("Beyoncé sang", "Beyonce", False, False),  # a letter with its accent is another word
        ("a 1.4 MB disk", "1.4 mb", True, False),
        ("a well-known fact", "well known", False, False),  # the hyphen is a token of its own
        ("a well-known fact", "well-known", True, True),
        ("a well - known fact", "well-known", True, False),  # spaces are none
        ("The end of the world", "the world", True, True),
        ("the\nworld", "the world", True, False),
        ("state-of-the-art", "art", True, True),
        ("at the very end", "end", True, True),
        ("begin and go", "begin", True, True),
        ("", "a", False, False),
        ("a text", "", False, False),
        ("a text", " ", False, True),
        ("a text", "\u200b", False, False),
    ],
)
def test_corner_cases(text, answer, tokens, substring):
    assert AnswerMatcher("tokens").holds(text, [answer]) is tokens
    assert AnswerMatcher("substring").holds(text, [answer]) is substring


def test_any_alias_will_do_and_none_is_no_answer():
    for how in ("tokens", "substring", "regex"):
        matcher = AnswerMatcher(how)
        assert matcher.holds("It is in Rome", ["Paris", "Rome"]) and not matcher.holds("It is in Rome", [])


def test_patterns_are_searched_for_in_any_line_and_case():
    matcher = AnswerMatcher("regex")
    text = "Founded\nin 1776 by the Café society"
    assert matcher.holds(text, [r"17\d\d"]) and matcher.holds(text, [r"^IN\b"]) and matcher.holds(text, ["Café"])
    assert not matcher.holds(text, [r"^1776"]) and not matcher.holds(text, [""]) and not matcher.holds("", [r"\d"])
    assert matcher.holds("a (b", [r"\(B"]) and not AnswerMatcher("tokens").holds(text, [r"17\d\d"])


def test_mistakes_of_users_are_named():
    with pytest.raises(BadInput, match="got 'exact', expected one of tokens, substring, regex"):
        AnswerMatcher("exact")
    with pytest.raises(BadInput, match=r"the answer '\(Rome' is no regular expression"):
        AnswerMatcher("regex").holds("Rome", ["(Rome"])


def test_a_text_that_comes_again_is_not_cut_into_tokens_again(monkeypatch):
    cut = []

    class Counting:
        def findall(self, text):
            cut.append(text)
            return regex.findall(r"\w+", text)

    monkeypatch.setattr("realm_train.evaluation.matching.TOKEN", Counting())
    matcher = AnswerMatcher("tokens")
    for question in range(50):
        assert matcher.holds("a passage about Rome", [f"answer {question}", "Rome"])
    assert cut.count("a passage about Rome") == 1 and len(cut) == 52
