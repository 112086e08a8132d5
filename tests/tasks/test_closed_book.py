"""Answers without a passage: the best filling of one, two or three masks, by Hugging Face's own model."""

from __future__ import annotations

import pytest
import torch
from small_world import REAL_WORDS

from realm_train.models.reader import Reader
from realm_train.tasks.closed_book import ClosedBook

TEXTS = ["Who?", "What is the capital of the country that lies north of the other one?", "When was it, and where?"]


def reader(seed: int = 3) -> Reader:
    torch.manual_seed(seed)
    return Reader.load(config=REAL_WORDS)


@torch.no_grad()
def fillings(reader: Reader, corpus, text: str, *, cut: int) -> list[tuple[float, list[str]]]:
    """Mean log p and pieces of the best filling of one, two and three masks."""
    asked = corpus.tokenizer.encode(text, add_special_tokens=False).ids
    found = []
    for masks in (1, 2, 3):
        first = [corpus.cls_id, *asked[: cut - masks - 2], *[corpus.mask_id] * masks, corpus.sep_id]
        ids = torch.tensor([[*first, corpus.sep_id]])
        segments = torch.tensor([[0] * len(first) + [1]])
        model = reader.masked_lm.eval()
        log_p = model(input_ids=ids, token_type_ids=segments).logits[0].log_softmax(dim=-1)
        log_p = log_p[[place for place, piece in enumerate(first) if piece == corpus.mask_id]]
        order = log_p.argsort(dim=1, descending=True).tolist()
        best = [
            next(piece for piece in row if says_something(corpus, piece) and (mask or corpus.word_starts[piece]))
            for mask, row in enumerate(order)
        ]
        mean = sum(float(log_p[mask, piece]) for mask, piece in enumerate(best)) / masks
        found.append((mean, best))
    return found


def says_something(corpus, piece: int) -> bool:
    token = corpus.tokenizer.id_to_token(piece)
    return not token.startswith(("[", "<")) and any(letter.isalnum() for letter in token)


@pytest.mark.parametrize("cut", [30, 8])
def test_it_is_the_filling_whose_pieces_are_likeliest_on_average(corpus, cut):
    model = reader()
    given = ClosedBook(model, corpus, query_length=cut)(TEXTS)
    for text, answer in zip(TEXTS, given, strict=True):
        _, best = max(fillings(model, corpus, text, cut=cut), key=lambda one: one[0])
        assert answer == corpus.tokenizer.decode(best) and answer


def test_how_many_masks_are_tried_is_the_longest(corpus):
    model = reader()
    one = ClosedBook(model, corpus, query_length=30, longest=1)(TEXTS)
    assert one == [corpus.tokenizer.decode(fillings(model, corpus, text, cut=30)[0][1]) for text in TEXTS]


def test_special_pieces_and_punctuation_are_never_said(corpus):
    model = reader()
    wanted = [corpus.sep_id, corpus.mask_id, corpus.pad_id, corpus.cls_id, corpus.tokenizer.token_to_id("[UNK]")]
    wanted += [corpus.tokenizer.token_to_id(token) for token in (".", ",", "[unused1]")]
    with torch.no_grad():
        model.masked_lm.cls.predictions.bias[wanted] += 100.0
        model.masked_lm.cls.predictions.bias[corpus.tokenizer.token_to_id("paris")] += 50.0
    assert set(ClosedBook(model, corpus, query_length=30)(TEXTS)) <= {"paris", "paris paris", "paris paris paris"}


def test_an_answer_begins_with_a_whole_word(corpus):
    model = reader()
    with torch.no_grad():
        model.masked_lm.cls.predictions.bias[corpus.tokenizer.token_to_id("##ing")] += 100.0
        model.masked_lm.cls.predictions.bias[corpus.tokenizer.token_to_id("paint")] += 50.0
    assert set(ClosedBook(model, corpus, query_length=30)(TEXTS)) <= {"paint", "painting", "paintinging"}


def test_a_batch_is_its_questions_alone(corpus):
    book = ClosedBook(reader(), corpus, query_length=30)
    assert book(TEXTS) == [book([text])[0] for text in TEXTS] and book.name == "closed book"
