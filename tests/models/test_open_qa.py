"""Scores of passages and of spans: the null slot, and spans in the coordinates of a body, one row at a time."""

import pytest
import torch
from tiny_models import BERT, random_sequences, tiny_towers

from realm_train.batch import Sequences
from realm_train.models.encoder import load_encoder
from realm_train.models.open_qa import OpenQa
from realm_train.models.span_reader import SpanReader

SEP = 2


def open_qa(*, max_span=3, **settings) -> OpenQa:
    towers = tiny_towers(shared=False, scale=0.3)
    torch.manual_seed(7)
    reader = SpanReader(load_encoder(config=BERT), width=12, max_span=max_span)
    return OpenQa(towers, reader, sep_id=SEP, **settings).eval()


def bodies_of(lengths, seed=1):
    generator = torch.Generator().manual_seed(seed)
    bodies = torch.randint(5, 50, (len(lengths), max(lengths)), generator=generator)
    bodies[torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]] = 0
    return bodies, torch.tensor(lengths)


@pytest.mark.parametrize("longest", [100, 17])
@torch.no_grad()
def test_spans_are_told_by_their_place_in_the_body_also_of_one_that_was_cut(longest):
    """Against `[CLS] x [SEP] body [SEP]` written out and read alone."""
    qa = open_qa(max_joint_length=longest)
    questions = random_sequences(5, shortest=4, longest=12)
    questions = Sequences(questions.ids, questions.lengths, questions.lengths)
    bodies, lengths = bodies_of([9, 1, 0, 14, 2])
    scores = qa.span_scores(questions, bodies, lengths)
    assert scores.shape == (5, 14, 3)
    cut = 0
    for row in range(5):
        asked = questions.ids[row, : questions.lengths[row]].tolist()
        body = bodies[row, : lengths[row]].tolist()[: longest - 1 - len(asked)]
        cut += len(body) < lengths[row]
        ids = torch.tensor([[*asked, *body, SEP]])
        alone = Sequences(ids, torch.tensor([ids.shape[1]]), torch.tensor([len(asked)]))
        expected = torch.full((14, 3), -torch.inf)
        expected[: len(body)] = qa.span_reader(alone)[0, len(asked) : len(asked) + len(body)]
        assert expected.isfinite().any() == bool(body)
        torch.testing.assert_close(scores[row], expected, rtol=0, atol=1e-5)
    assert bool(cut) == (longest == 17)


@torch.no_grad()
def test_no_body_at_all_has_no_span():
    questions = random_sequences(2, shortest=4, longest=6)
    questions = Sequences(questions.ids, questions.lengths, questions.lengths)
    scores = open_qa().span_scores(questions, torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    assert scores.shape == (2, 1, 3) and scores.isneginf().all()


@pytest.mark.parametrize("null_score", ["tower", "learned"])
@torch.no_grad()
def test_the_null_passage_is_slot_0_and_what_is_missing_has_no_score(null_score):
    qa = open_qa(null_score=null_score)
    generator = torch.Generator().manual_seed(0)
    queries, vectors = torch.randn(3, 16, generator=generator), torch.randn(3, 4, 16, generator=generator)
    present = torch.rand(3, 4, generator=generator) < 0.6
    null = torch.randn(1, 16, generator=generator)
    if null_score == "learned":
        qa.null_bias.fill_(-1.25)
        null = None
    scores = qa.scores(queries, vectors, present, null)
    for row in range(3):
        first = -1.25 if null is None else 0.3 * float(queries[row] @ null[0])
        assert scores[row, 0].item() == pytest.approx(first, abs=1e-5)
        for slot in range(4):
            expected = 0.3 * float(queries[row] @ vectors[row, slot]) if present[row, slot] else -torch.inf
            assert scores[row, 1 + slot].item() == pytest.approx(expected, abs=1e-5)


def test_a_learned_null_score_learns():
    qa = open_qa(null_score="learned")
    scores = qa.scores(torch.ones(2, 16), torch.ones(2, 3, 16), torch.ones(2, 3, dtype=torch.bool), None)
    scores.log_softmax(dim=1)[:, 0].sum().backward()
    p_null = scores.detach().softmax(dim=1)[:, 0]
    assert qa.null_bias.grad.item() == pytest.approx(float((1 - p_null).sum()), abs=1e-6)
