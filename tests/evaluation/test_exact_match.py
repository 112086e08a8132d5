import unicodedata

import pytest

from realm_train.errors import BadInput
from realm_train.evaluation.exact_match import exact_match, f1, normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Who", "who"),
        ("A-ha", "aha"),  # a hyphen is taken out, and no space comes in its place
        ("well-known", "wellknown"),
        ("The cat's  pyjamas!", "cats pyjamas"),
        ("U.S.A.", "usa"),
        ("$25,000", "25000"),
        ("1.4 MB", "14 mb"),
        ("1945", "1945"),
        ("an apple, a pear and the Plum", "apple pear and plum"),
        ("Theatre", "theatre"),  # an article is a whole word
        ("A", ""),
        ("The The", ""),
        ("", ""),
        (" \t\n", ""),
        ("...", ""),
        ("“quoted” – dash", "“quoted” – dash"),  # only ASCII's punctuation is taken out
        ("tab\tand\nline", "tab and line"),
    ],
)
def test_normalisation(text, expected):
    assert normalised(text) == expected
    assert normalised(normalised(text)) == expected


@pytest.mark.parametrize("text", ["Beyoncé", "Ångström", "Fernando Tatís", "한국"])
def test_composed_and_decomposed_accents_are_one(text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert composed != decomposed and normalised(composed) == normalised(decomposed)
    assert exact_match(composed, [decomposed]) and f1(decomposed, [composed]) == 1.0


def test_accents_are_kept():
    assert not exact_match("Beyonce", ["Beyoncé"])


def test_exact_match_takes_any_alias():
    assert exact_match("The Beatles", ["Wings", "beatles"])
    assert not exact_match("Beatles", ["The Beatles band", "John Lennon"])
    assert not exact_match("two", ["2"]) and not exact_match("Rome", [])
    assert not exact_match("", ["Rome"])


def test_patterns_must_begin_where_the_prediction_begins():
    assert exact_match("1776 or so", [r"17\d\d"], regex=True)  # nothing is asked of the rest
    assert not exact_match("in 1776", [r"17\d\d"], regex=True)
    assert exact_match("ROME", ["Paris", "rom[ea]"], regex=True)
    assert not exact_match("Rome", [""], regex=True)
    assert not exact_match("The Rome", ["Rome"], regex=True)  # nothing is normalised
    with pytest.raises(BadInput, match="no regular expression"):
        exact_match("Rome", ["(Rome"], regex=True)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the cat sat", ["cat sat down"], 0.8),  # 2 of 2 words right, 2 of 3 found
        ("cat cat", ["cat"], 2 / 3),  # a word counts as often as it is in both
        ("cat cat", ["cat dog cat"], 0.8),
        ("dog", ["cat"], 0.0),
        ("dog", ["cat", "dog house", "a dog"], 1.0),
        ("", ["cat"], 0.0),
        ("the", ["a"], 1.0),  # nothing is left of both, as in SQuAD 2.0
        ("cat", [], 0.0),
    ],
)
def test_f1(prediction, answers, expected):
    assert f1(prediction, answers) == pytest.approx(expected, abs=1e-12)


def test_f1_is_symmetric_and_one_only_for_the_same_words():
    texts = ["a b c", "c b a", "b b c", "d", "", "c d e f"]
    for one in texts:
        for other in texts:
            value = f1(one, [other])
            assert value == f1(other, [one]) and 0 <= value <= 1
            assert (value == 1) == (sorted(normalised(one).split()) == sorted(normalised(other).split()))
