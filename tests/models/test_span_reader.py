"""The span reader against its formula, one span at a time, over what Hugging Face's own call gives one row."""

import pytest
import torch
from tiny_models import BERT, ROBERTA, naive_hidden_states, padded_wider, picked, random_sequences

from realm_train.batch import Sequences
from realm_train.errors import BadInput
from realm_train.models.encoder import load_encoder
from realm_train.models.span_reader import SpanReader


def span_reader(*, seed=0, config=BERT, **settings) -> SpanReader:
    torch.manual_seed(seed)
    return SpanReader(load_encoder(config=config), **{"width": 12, "max_span": 4} | settings).eval()


def joints(rows=7, *, seed=0, **settings) -> Sequences:
    """Rows whose body is what stands between `second` and the last piece."""
    sequences = random_sequences(rows, shortest=6, longest=20, seed=seed, **settings)
    return Sequences(sequences.ids, sequences.lengths, sequences.second.clamp(min=1).minimum(sequences.lengths - 1))


def score_by_formula(reader: SpanReader, hidden: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """w . LayerNorm(relu(W_start h_first + W_end h_last + bias))."""
    width = reader.output.in_features
    weight, bias = reader.projection.weight, reader.projection.bias
    both = weight[:width] @ hidden[first] + bias[:width] + weight[width:] @ hidden[last] + bias[width:]
    h = torch.relu(both)
    h = (h - h.mean()) / torch.sqrt(h.var(correction=0) + reader.norm.eps) * reader.norm.weight + reader.norm.bias
    return reader.output.weight[0] @ h + reader.output.bias[0]


@pytest.mark.parametrize("config", [BERT, ROBERTA], ids=lambda config: config["model_type"])
@pytest.mark.parametrize("max_span", [1, 4, 30])
@torch.no_grad()
def test_every_span_of_the_body_has_the_score_of_the_formula_and_no_other_has_one(config, max_span):
    reader, joint = span_reader(config=config, max_span=max_span), joints(5, pad=config.get("pad_token_id", 0))
    torch.nn.init.normal_(reader.norm.weight)
    torch.nn.init.normal_(reader.norm.bias)
    scores = reader(joint)
    assert scores.shape == (5, int(joint.lengths.max()), max_span) and scores.dtype == torch.float32
    for row in range(5):
        hidden = naive_hidden_states(reader.encoder, joint, row)
        body = range(int(joint.second[row]), int(joint.lengths[row]) - 1)  # without the last [SEP]
        expected = torch.full_like(scores[row], -torch.inf)
        for first in body:
            for last in range(first, min(first + max_span, body.stop)):
                expected[first, last - first] = score_by_formula(reader, hidden, first, last)
        assert int(expected.isfinite().sum()) == sum(min(max_span, body.stop - first) for first in body)
        torch.testing.assert_close(scores[row], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_body_may_have_one_piece_or_none():
    joint = joints(3)
    one = Sequences(joint.ids, joint.lengths, joint.lengths - 2)
    none = Sequences(joint.ids, joint.lengths, joint.lengths - 1)
    reader = span_reader()
    finite = reader(one).isfinite()
    assert [place.tolist() for place in finite.nonzero()] == [[row, int(one.second[row]), 0] for row in range(3)]
    assert reader(none).isneginf().all()


@torch.no_grad()
def test_padding_and_the_other_rows_change_no_score():
    reader, joint = span_reader(), joints(8)
    scores = reader(joint)
    wider = reader(padded_wider(joint, 9))
    torch.testing.assert_close(wider[:, : scores.shape[1]], scores, rtol=0, atol=1e-5)
    assert wider[:, scores.shape[1] :].isneginf().all()
    order = torch.tensor([5, 2, 7, 2])
    torch.testing.assert_close(reader(picked(joint, order)), scores[order], rtol=0, atol=1e-5)


def test_the_gradient_reaches_the_encoder_and_both_halves_of_the_projection():
    reader, joint = span_reader(), joints(4)
    scores = reader(joint)
    scores[scores.isfinite()].sum().backward()
    width = reader.output.in_features
    for part in (reader.projection.weight.grad[:width], reader.projection.weight.grad[width:]):
        assert part.isfinite().all() and part.abs().max() > 1e-4
    layers = [value.grad for name, value in reader.encoder.named_parameters() if "layer." in name]
    assert all(grad is not None and grad.isfinite().all() for grad in layers) and any(grad.any() for grad in layers)


@torch.no_grad()
def test_mixed_precision_tells_spans_apart_that_half_precision_would_not():
    reader, joint = span_reader(), joints(6)
    exact = reader(joint)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = reader(joint)
    inside = exact.isfinite()
    assert mixed.dtype == torch.float32 and torch.equal(mixed.isfinite(), inside)
    torch.testing.assert_close(mixed[inside], exact[inside], rtol=0, atol=0.1)
    assert len(mixed[inside].unique()) == int(inside.sum())


def test_a_span_of_no_piece_is_refused():
    with pytest.raises(BadInput, match="open_qa.max_span: got 0, expected at least 1"):
        SpanReader(load_encoder(config=BERT), max_span=0)
