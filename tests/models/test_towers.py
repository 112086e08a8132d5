"""Vectors against the naive ones, in order; shared and untied towers; scores in fp32."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import (
    BERT,
    DISTILBERT,
    MODERNBERT,
    naive_hidden_states,
    padded_wider,
    picked,
    random_sequences,
    tiny_towers,
)

from realm_train.batch import Sequences
from realm_train.errors import BadInput
from realm_train.models.encoder import load_encoder
from realm_train.models.towers import Tower, Towers


def naive_vector(tower, sequences, row) -> torch.Tensor:
    hidden = naive_hidden_states(tower.encoder, sequences, row)
    pooled = hidden[0] if tower.pooling == "cls" else hidden.mean(dim=0)
    projected = tower.projection.weight @ pooled + tower.projection.bias
    centred = projected - projected.mean()
    return centred / (centred.square().mean() + tower.norm.eps).sqrt() * tower.norm.weight + tower.norm.bias


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_are_the_naive_ones_in_the_order_of_the_rows(pooling):
    tower = tiny_towers(pooling=pooling).passage.eval()
    with torch.no_grad():
        tower.norm.weight.uniform_(0.5, 2.0)
        tower.norm.bias.uniform_(-1.0, 1.0)
    sequences = random_sequences(25, longest=120)  # unequal enough for several buckets
    expected = torch.stack([naive_vector(tower, sequences, row) for row in range(25)])
    torch.testing.assert_close(tower(sequences), expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(tower(padded_wider(sequences, 7)), expected, rtol=0, atol=2e-5)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tower(picked(sequences, order)), expected[order], rtol=0, atol=2e-5)


def by_hand(tower, sequences, row, *, pooling, norm) -> torch.Tensor:
    """One vector in numbers: what is pooled, a linear map where there is one, and what comes last."""
    hidden = naive_hidden_states(tower.encoder, sequences, row)
    pooled = hidden.mean(dim=0) if pooling == "mean" else hidden[0]
    if pooling == "pooler":
        pooled = torch.tanh(tower.encoder.pooler.dense.weight @ pooled + tower.encoder.pooler.dense.bias)
    if isinstance(tower.projection, torch.nn.Linear):
        pooled = tower.projection.weight @ pooled + tower.projection.bias
    if norm == "l2":
        return pooled / pooled.square().sum().sqrt()
    if norm == "none":
        return pooled
    centred = pooled - pooled.mean()
    return centred / (centred.square().mean() + 1e-12).sqrt()


@pytest.mark.parametrize("norm", ["layer_norm", "l2", "none"])
@pytest.mark.parametrize("dim, pooling", [(None, "mean"), (8, "pooler"), (None, "cls")])
def test_every_head_is_the_one_by_hand(dim, pooling, norm):
    torch.manual_seed(0)
    encoder = load_encoder(config=BERT, pooler=pooling == "pooler")
    tower = Tower(encoder, dim, pooling, norm=norm, norm_eps=1e-12).eval()
    sequences = random_sequences(6)
    expected = torch.stack([by_hand(tower, sequences, row, pooling=pooling, norm=norm) for row in range(6)])
    torch.testing.assert_close(tower(sequences), expected, rtol=0, atol=2e-5)
    assert tower.dim == expected.shape[1] == (dim or 32)


def test_a_tower_without_segments_sees_one_segment():
    torch.manual_seed(0)
    encoder = load_encoder(config=BERT)
    torch.manual_seed(1)
    told = Tower(encoder, 8).eval()
    torch.manual_seed(1)
    not_told = Tower(encoder, 8, segments=False).eval()
    sequences = random_sequences(6)
    as_one = Sequences(sequences.ids, sequences.lengths, sequences.lengths)
    assert torch.equal(not_told(sequences), told(as_one))
    assert not torch.allclose(not_told(sequences), told(sequences))


def test_a_pooler_that_is_used_gets_a_gradient_and_one_that_is_not_is_dropped():
    towers = Towers(load_encoder(config=BERT, pooler=True), dim=8, pooling="pooler", shared=False)
    both = towers.query(random_sequences(2)).sum() + towers.passage(random_sequences(2)).square().sum()
    both.backward()
    assert [name for name, value in towers.named_parameters() if value.grad is None] == []
    assert Tower(load_encoder(config=BERT, pooler=True), 8).encoder.pooler is None


def test_a_query_encoder_of_its_own():
    torch.manual_seed(0)
    passage, query = load_encoder(config=BERT), load_encoder(config=BERT)
    towers = Towers(passage, query_encoder=query, dim=8, shared=False).eval()
    assert towers.passage.encoder is passage and towers.query.encoder is query
    assert torch.equal(towers.query.projection.weight, towers.passage.projection.weight)
    sequences = random_sequences(3)
    assert not torch.allclose(towers.query(sequences), towers.passage(sequences))


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"pooling": "pooler"}, "BertModel has none; .* with model.towers.encoder.pooler=true"),
        ({"query_encoder": torch.nn.Identity()}, "set towers.shared=false"),
    ],
)
def test_what_a_tower_cannot_be_is_told(settings, said):
    with pytest.raises(BadInput, match=said):
        Towers(load_encoder(config=BERT), **settings)


def test_no_sequences_have_no_vectors():
    assert tiny_towers().query(picked(random_sequences(2), torch.empty(0, dtype=torch.long))).shape == (0, 16)


def test_a_shared_tower_is_one_module():
    towers = tiny_towers(shared=True)
    assert towers.query is towers.passage
    assert len(list(towers.parameters())) == len(list(towers.passage.parameters()))


def test_untied_towers_start_alike_and_share_no_storage():
    towers = tiny_towers(shared=False)
    own, other = (dict(tower.named_parameters()) for tower in (towers.query, towers.passage))
    buffers = [
        {tensor.data_ptr() for tensor in tower.state_dict().values()} for tower in (towers.query, towers.passage)
    ]
    assert own.keys() == other.keys() and not buffers[0] & buffers[1]
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_a_step_on_the_query_tower_leaves_the_passage_tower_alone():
    towers = tiny_towers(shared=False)
    before = copy.deepcopy(towers.state_dict())
    queries, passages = random_sequences(4), random_sequences(4, seed=1)
    vectors = towers.passage(passages).detach()
    towers.scores(towers.query(queries), vectors[None].expand(4, -1, -1)).softmax(dim=1)[:, 0].sum().backward()
    torch.optim.SGD(towers.parameters(), lr=1.0).step()
    for name, value in towers.state_dict().items():
        if name.startswith("passage."):
            assert torch.equal(value, before[name])
    assert not torch.equal(
        towers.query.encoder.embeddings.word_embeddings.weight,
        before["query.encoder.embeddings.word_embeddings.weight"],
    )
    assert torch.equal(towers.passage(passages), vectors)


@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_scores_are_scaled_inner_products_in_fp32_also_under_autocast(scale):
    towers = tiny_towers(scale=scale)
    generator = torch.Generator().manual_seed(0)
    queries, passages = torch.randn(3, 16, generator=generator), torch.randn(3, 5, 16, generator=generator)
    expected = [[float(queries[b].double() @ passages[b, k].double()) * scale for k in range(5)] for b in range(3)]
    plain = towers.scores(queries, passages)
    torch.testing.assert_close(plain, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = towers.scores(queries, passages)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)


def test_vectors_under_autocast_are_fp32_and_near():
    tower = tiny_towers().passage.eval()
    sequences = random_sequences(5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tower(sequences)
    plain = tower(sequences)
    assert mixed.dtype == torch.float32 and not torch.equal(mixed, plain)
    assert torch.nn.functional.cosine_similarity(mixed, plain).min() > 0.99


@pytest.mark.parametrize("config", [BERT, DISTILBERT, MODERNBERT], ids=lambda config: config["model_type"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_no_dropout_is_claimed_only_where_training_vectors_are_those_of_evaluation(config, dropout):
    torch.manual_seed(0)
    tower = Tower(load_encoder(config=config, dropout=dropout), dim=16)
    sequences = random_sequences(3)
    same = torch.equal(tower.train()(sequences), tower.eval()(sequences))
    assert tower.dropout == dropout and same == (dropout == 0)


def test_dropout_of_the_attention_alone_counts():
    tower = Tower(load_encoder(config=BERT | {"attention_probs_dropout_prob": 0.2}))
    assert tower.dropout == 0.2
