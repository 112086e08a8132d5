"""Spans: whole word pieces of one sentence, at true characters, and everything left out is counted with a reason."""

from __future__ import annotations

import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from data_prep.alignment import Passage, align, longest, trim
from data_prep.taggers import Entity
from data_prep.tokenizer import plain_tokenizer

UNICODE = "Zoë Łódź met 北京市 and 東京 😀 at Café Müller’s. Nao\u0301mi, İzmir and שלום שמי left in 1998. U.S. won."


@pytest.fixture(scope="module")
def passage_of(tokenizer):
    """`passage_of(text)`: its sentences end at a full stop and a space."""
    plain = plain_tokenizer(tokenizer.backend_tokenizer.to_str())

    def make(text: str) -> Passage:
        encoding = plain.encode(text, add_special_tokens=False)
        starts, ends = np.array(encoding.offsets).reshape(-1, 2).T
        bounds = [0, *(at + 2 for at in range(len(text)) if text[at : at + 2] == ". "), len(text)]
        sentences = [
            (first, first + len(text[first:last].rstrip()), np.sum(starts < first), np.sum(starts < last))
            for first, last in pairwise(bounds)
        ]
        return Passage(
            text=text,
            sentences=np.array(sentences),
            starts=starts,
            ends=ends,
            words=np.array(encoding.word_ids),
            unknown=np.array(encoding.ids) == tokenizer.unk_token_id,
        )

    return make


def entity(text: str, part: str, label: str = "X") -> Entity:
    return Entity(text.index(part), text.index(part) + len(part), label)


def kept_texts(passage: Passage, entities: list[Entity], max_tokens: int = 10) -> list[str]:
    rows, _ = align(passage, entities, max_tokens=max_tokens)
    return [passage.text[start:end] for _, start, end, *_ in rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris", "Paris"),
        (" “Paris”, ", "Paris"),
        ("the Nile", "Nile"),
        ("The\u00a0Nile's", "Nile"),
        ("Müller’s", "Müller"),
        ("the “An Ode”", "Ode"),
        ("Theodore", "Theodore"),
        ("the U.S.", "U.S."),
        ("44 B.C.", "44 B.C."),
        ("Paris.", "Paris"),
        ("(AT&T)", "AT&T"),
        ("Cafe\u0301", "Cafe\u0301"),
        ("हिन्दी", "हिन्दी"),
        ("\u200bParis\u200b", "Paris"),
        ("…", ""),
        ("", ""),
    ],
)
def test_spans_are_trimmed_to_what_names_the_entity(text, expected):
    start, end = trim(f"x{text}x", 1, 1 + len(text))
    assert f"x{text}x"[start:end] == expected


@pytest.mark.parametrize(
    ("text", "part", "reason"),
    [
        ("Ada left. Bob stayed.", "Ada left. Bob", "crosses_sentence"),
        ("Ada saw \u0301\u0302 it.", "\u0301\u0302", "no_token"),
        ("The pianists met.", "pian", "partial_token"),
        ("Fabianskis met.", "Fabian", "partial_word"),
        ("Ada and all that.", "that", "stopword"),
        ("Ada — left.", "—", "stopword"),
        ("Ada saw 😀 there.", "😀", "unknown_token"),
        ("Ada saw Rio de Janeiro.", "Rio de Janeiro", "too_long"),
    ],
)
def test_an_entity_that_cannot_be_masked_is_counted_with_its_reason(passage_of, text, part, reason):
    rows, skipped = align(passage_of(text), [entity(text, part)], max_tokens=2)
    assert rows == [] and skipped == Counter({reason: 1})


def test_of_entities_that_overlap_the_longest_that_can_be_masked_is_kept(passage_of):
    text = "The University of New South Wales opened in 1949."
    passage = passage_of(text)
    whole, part, year = (entity(text, name) for name in ("University of New South Wales", "New South Wales", "1949"))
    rows, skipped = align(passage, [part, year, whole, year], max_tokens=10)
    assert [text[row[1] : row[2]] for row in rows] == ["University of New South Wales", "1949"]
    assert skipped == {"overlap": 2}
    assert kept_texts(passage, [part, whole], max_tokens=4) == ["New South Wales"]  # the longer one is too long


def test_of_two_names_for_one_entity_the_first_stays():
    rows = [(0, 5, 9, 1, 2, "DATE"), (0, 5, 9, 1, 2, "PERSON"), (0, 0, 5, 0, 1, "ORG")]
    assert longest(rows) == [rows[2], rows[0]]


def folded(text: str) -> str:
    """As an uncased WordPiece tokenizer sees it: lower case without accents and spaces."""
    plain = unicodedata.normalize("NFD", text.lower())
    return "".join(letter for letter in plain if unicodedata.category(letter) not in ("Mn", "Cf") and letter != " ")


def test_the_characters_of_a_span_are_what_its_pieces_decode_to_in_any_script(passage_of, tokenizer):
    names = ["Zoë Łódź", "東京", "Café Müller’s", "Nao\u0301mi", "İzmir", "שלום שמי", "1998", "U.S."]
    passage = passage_of(UNICODE)
    ids = np.array(tokenizer(UNICODE, add_special_tokens=False)["input_ids"])
    rows, skipped = align(passage, [entity(UNICODE, name) for name in names], max_tokens=10)
    assert [UNICODE[row[1] : row[2]] for row in rows] == [*names[:2], "Café Müller", *names[3:]] and not skipped
    for sentence, start, end, first, last, _ in rows:
        decoded = "".join(tokenizer.convert_ids_to_tokens(ids[first:last])).replace("##", "")
        assert folded(decoded) == folded(UNICODE[start:end])
        low, high = passage.sentences[sentence, 2:]
        assert low <= first < last <= high


def test_whatever_a_tagger_finds_the_spans_are_whole_and_everything_is_counted(passage_of):
    rng, passage, kept = np.random.default_rng(0), passage_of(UNICODE), 0
    for _ in range(300):
        edges = np.sort(rng.integers(0, len(UNICODE) + 1, (5, 2)), axis=1).tolist()
        near = [(start, min(end, start + 12)) for start, end in edges]
        entities = [Entity(*edge, "X") for edge in near]
        rows, skipped = align(passage, entities, max_tokens=6)
        kept += len(rows)
        assert len(rows) + skipped.total() == len(entities)
        assert all(row[2] <= after[1] for row, after in pairwise(rows))
        for sentence, start, end, first, last, _ in rows:
            assert any(begin <= start and end <= stop for begin, stop in near)
            assert passage.sentences[sentence, 0] <= start < end <= passage.sentences[sentence, 1]
            assert passage.sentences[sentence, 2] <= first < last <= passage.sentences[sentence, 3]
            assert 1 <= last - first <= 6
            inside = np.flatnonzero((passage.starts < end) & (passage.ends > start))
            assert inside.tolist() == list(range(first, last))
            assert passage.starts[first] >= start and passage.ends[last - 1] <= end
            assert not {*passage.words[:first], *passage.words[last:]} & {*passage.words[first:last]}
    assert kept > 100
