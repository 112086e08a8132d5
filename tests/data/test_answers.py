"""Answers in word pieces against a search of every place: whole words, at all ends, each place once."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from realm_train.batch import MISSING
from realm_train.data.answers import answer_runs, occurrences, surfaces
from realm_train.data.corpus import word_starts


def naive(bodies, lengths, runs, word_starts):
    """Every place of every run, piece by piece."""
    found = set()
    for passage, (row, length) in enumerate(zip(bodies.tolist(), lengths.tolist(), strict=True)):
        body = row[:length]
        for run in map(list, runs):
            for start in range(length - len(run) + 1):
                end = start + len(run)
                begins = start == 0 or word_starts[body[start]]
                ends = end == length or word_starts[body[end]]
                if body[start:end] == run and begins and ends:
                    found.add((passage, start, end - 1))
    return sorted(found)


@pytest.mark.parametrize("seed", range(40))
def test_every_place_is_found_and_no_other(seed):
    """Few pieces, so that runs stand everywhere, overlap, and are parts of words."""
    rng = np.random.default_rng(seed)
    pieces = int(rng.integers(2, 6))
    word_starts = rng.random(pieces) < 0.6
    lengths = rng.integers(0, 12, size=int(rng.integers(1, 6)))
    bodies = rng.integers(0, pieces, size=(len(lengths), 11))  # what is behind the end looks like words too
    runs = [rng.integers(0, pieces, size=rng.integers(1, 5)) for _ in range(rng.integers(0, 5))]
    found = occurrences(bodies, lengths, runs + runs[:1], word_starts)
    assert found.shape[1] == 3 and list(map(tuple, found.tolist())) == naive(bodies, lengths, runs, word_starts)


def test_the_naive_search_finds_something_to_compare():
    counts = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        bodies = rng.integers(0, 3, size=(4, 11))
        counts.append(len(naive(bodies, np.full(4, 11), [[0], [1, 2]], np.array([True, True, False]))))
    assert min(counts) > 0


@pytest.fixture
def find(corpus):
    """`find(text, answers)`: the answers in a text cut into word pieces, as the pieces that they cover."""

    def find(text, answers):
        body = np.array([corpus.tokenizer.encode(text, add_special_tokens=False).ids], dtype=np.int64)
        runs = answer_runs(corpus.tokenizer, answers)
        places = occurrences(body, np.array([body.shape[1]]), runs, corpus.word_starts)
        assert (places[:, 0] == 0).all()
        return [corpus.decode(body[0, first : last + 1].tolist()) for _, first, last in places.tolist()]

    return find


def test_an_answer_is_whole_words_and_not_the_beginning_or_end_of_one(find, corpus):
    pieces = corpus.tokenizer.encode("embeddings", add_special_tokens=False).tokens
    assert len(pieces) > 1 and pieces[1].startswith("##")
    begins = pieces[0]  # is a word of its own as well
    assert find("embeddings", [begins]) == []
    assert find(f"embeddings {begins} embeddings", [begins]) == [begins]
    assert find("embeddings", ["dings"]) == [] and find("embeddings", ["embeddings"]) == ["embeddings"]
    assert find("two embeddings", ["two em"]) == []


def test_answers_are_found_at_the_first_and_last_piece_and_beside_punctuation(find):
    text = "Paris, not Rome (Italy), is Paris"
    assert find(text, ["Paris"]) == ["paris", "paris"]
    assert find(text, ["rome", "ITALY"]) == ["rome", "italy"]
    assert find("Paris", ["paris"]) == ["paris"] and find("Paris", ["paris paris"]) == []
    assert find("of Zürich", ["zurich"]) == ["zurich"]  # the tokenizer's own normalisation


def test_aliases_that_are_the_same_pieces_count_once(find, corpus):
    assert len(answer_runs(corpus.tokenizer, ["Paris", "paris ", "PARIS"])) == 1
    assert find("In Paris.", ["Paris", "paris ", "PARIS"]) == ["paris"]
    assert find("In Paris.", ["Paris", "in paris", "Paris"]) == ["in paris", "paris"]


def test_an_answer_without_pieces_or_with_an_unknown_one_is_nowhere(find, corpus):
    unknown = "\U0001f9ea"
    assert corpus.tokenizer.encode(unknown, add_special_tokens=False).tokens == ["[UNK]"]
    assert answer_runs(corpus.tokenizer, ["", "  ", unknown, f"Paris {unknown}"]) == ()
    assert find(f"a {unknown} in Paris", [unknown]) == []


def test_padding_and_missing_passages_hold_no_answer(corpus):
    bodies, lengths = corpus.bodies(np.array([0, MISSING, 1]), 96)
    assert lengths[1] == 0 and lengths[0] != lengths[2]
    run = np.array([corpus.pad_id])
    assert not len(occurrences(bodies.numpy(), lengths.numpy(), [run], corpus.word_starts))
    first = bodies[0, :1].numpy()
    places = occurrences(bodies.numpy(), lengths.numpy(), [first], corpus.word_starts)
    assert places.tolist() == [list(place) for place in naive(bodies, lengths, [first], corpus.word_starts)]
    assert len(places) and 1 not in places[:, 0]


def test_nothing_to_look_in_or_for_gives_no_place():
    starts = np.ones(4, dtype=bool)
    assert occurrences(np.zeros((2, 0), np.int64), np.zeros(2, np.int64), [np.array([1])], starts).shape == (0, 3)
    assert occurrences(np.zeros((2, 3), np.int64), np.full(2, 3), [], starts).shape == (0, 3)


def test_patterns_stand_for_what_they_match():
    texts = ["Born in 1815 or 1816.", "born IN 1815", "in the year 15"]
    assert surfaces(texts, [r"\b18\d\d\b"]) == {"1815", "1816"}
    assert surfaces(texts, [r"born in"]) == {"Born in", "born IN"}
    assert surfaces(texts, [r"^in\b", r"x*"]) == {"in"}  # a line's beginning; an empty match is nothing
    assert surfaces(texts, [r"\p{Lu}\w+"]) >= {"Born"}  # as evaluation reads patterns


def test_answers_are_found_where_a_space_is_part_of_a_piece():
    """A byte-level vocabulary, as RoBERTa's: after a space, at the start, before a comma, and not within a word."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    text = "Paris, on the Seine, is where Parisians live: in Paris."
    alphabet = ByteLevel.alphabet()
    tokenizer.train_from_iterator([text] * 4, BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    encoding = tokenizer.encode(text)
    bodies, lengths = np.array([encoding.ids]), np.array([len(encoding.ids)])
    runs = answer_runs(tokenizer, ["Paris", "Seine", "live"])
    found = occurrences(bodies, lengths, runs, word_starts(tokenizer))
    said = [text[encoding.offsets[first][0] : encoding.offsets[last][1]].strip() for _, first, last in found.tolist()]
    assert said == ["Paris", "Seine", "live", "Paris"]
