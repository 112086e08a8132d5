"""Hidden states are Hugging Face's own, whatever the padding; rows are grouped without loss; what cannot be loaded is
named."""

from __future__ import annotations

import pytest
import torch
from tiny_models import BERT, DISTILBERT, MODERNBERT, ROBERTA, naive_hidden_states, padded_wider, random_sequences

from realm_train.errors import BadInput
from realm_train.models.encoder import encode_by_length, length_buckets, load_encoder


def hidden_states(encoder, sequences) -> torch.Tensor:
    """The groups put together again; 0 where there is padding."""
    output = torch.zeros(*sequences.ids.shape, encoder.config.hidden_size)
    for rows, hidden in encode_by_length(encoder, sequences):
        output[rows, : hidden.shape[1]] = hidden
    return output


@pytest.fixture
def folder(tmp_path):
    """A saved encoder of two layers."""
    torch.manual_seed(0)
    load_encoder(config=BERT).save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


@pytest.mark.parametrize("config", [BERT, ROBERTA, MODERNBERT], ids=lambda config: config["model_type"])
def test_hidden_states_are_those_of_each_row_alone(config):
    torch.manual_seed(0)
    encoder = load_encoder(config=config).eval()
    sequences = random_sequences(25, longest=60, pad=config.get("pad_token_id", 0))
    batched, wider = hidden_states(encoder, sequences), hidden_states(encoder, padded_wider(sequences, 5))
    for row, length in enumerate(sequences.lengths.tolist()):
        alone = naive_hidden_states(encoder, sequences, row)
        torch.testing.assert_close(batched[row, :length], alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(wider[row, :length], alone, rtol=0, atol=1e-5)


def test_the_second_segment_is_seen():
    torch.manual_seed(0)
    encoder = load_encoder(config=BERT).eval()
    one = random_sequences(3)
    other = type(one)(ids=one.ids, lengths=one.lengths, second=one.lengths)
    assert (hidden_states(encoder, one) - hidden_states(encoder, other)).abs().amax(dim=(1, 2)).min() > 1e-2


def test_a_folder_gives_its_weights_back(folder):
    saved, again = load_encoder(folder), load_encoder(folder)
    torch.manual_seed(0)
    made = load_encoder(config=BERT)
    assert saved.state_dict().keys() == made.state_dict().keys()
    for name, value in made.state_dict().items():
        assert torch.equal(saved.state_dict()[name], value) and torch.equal(again.state_dict()[name], value)


def test_layers_keeps_the_first_ones(folder):
    whole, first = load_encoder(folder).eval(), load_encoder(folder, layers=1).eval()
    sequences = random_sequences(2, shortest=20, longest=20)
    expected = whole(sequences.ids, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(first(sequences.ids).last_hidden_state, expected)
    with pytest.raises(BadInput, match=r"got layers=3, but it has 2"):
        load_encoder(folder, layers=3)


def test_there_is_no_pooler_to_stay_without_gradient():
    encoder = load_encoder(config=BERT)
    hidden_states(encoder, random_sequences(3)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("config", [BERT, ROBERTA, DISTILBERT, MODERNBERT], ids=lambda config: config["model_type"])
def test_dropout_of_zero_makes_training_repeatable(config):
    noisy = config | {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}
    noisy |= {"embedding_dropout": 0.5, "mlp_dropout": 0.5, "attention_dropout": 0.5, "dropout": 0.5}
    sequences = random_sequences(3)
    still, moving = (load_encoder(config=noisy, dropout=dropout).train() for dropout in (0.0, None))
    assert torch.equal(hidden_states(still, sequences), hidden_states(still, sequences))
    assert not torch.equal(hidden_states(moving, sequences), hidden_states(moving, sequences))


def test_gradient_checkpointing_changes_no_gradient(folder):
    gradients = []
    for checkpointing in (False, True):
        encoder = load_encoder(folder, gradient_checkpointing=checkpointing).train()
        assert encoder.is_activation_checkpointing == checkpointing
        hidden_states(encoder, random_sequences(4)).sin().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name, config", [(None, None), ("somewhere", BERT)])
def test_name_or_config_but_not_both(name, config):
    with pytest.raises(BadInput, match="expected exactly one of them"):
        load_encoder(name, config=config)


@pytest.mark.parametrize("name", ["nobody/has-this-model", "./no/such/folder"])
def test_an_encoder_that_cannot_be_had_is_named(name):
    with pytest.raises(BadInput, match=f"encoder {name}: .*check the name"):
        load_encoder(name)


def test_a_folder_without_weights_is_named(folder, tmp_path):
    (tmp_path / "encoder" / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="give the path of a folder with config.json and weights"):
        load_encoder(folder)


def test_groups_are_rows_of_like_length_without_needless_padding():
    encoder, sequences = load_encoder(config=BERT), random_sequences(40, longest=120)
    groups = list(encode_by_length(encoder, padded_wider(sequences, 20)))
    assert len(groups) > 2 and torch.cat([rows for rows, _ in groups]).sort().values.equal(torch.arange(40))
    for rows, hidden in groups:
        assert hidden.shape == (len(rows), sequences.lengths[rows].max(), 32)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("max_tokens, waste", [(16384, 0.1), (300, 0.1), (1000, 0.0), (50, 0.5)])
def test_buckets_are_a_partition_within_their_bounds(seed, max_tokens, waste):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 120, (int(torch.randint(1, 200, (), generator=generator)),), generator=generator)
    groups = length_buckets(lengths, max_tokens=max_tokens, waste=waste)
    assert torch.equal(torch.cat(groups).sort().values, torch.arange(len(lengths)))
    in_order = lengths[torch.cat(groups)]
    assert (in_order.diff() <= 0).all()
    for group in groups:
        padded = len(group) * int(lengths[group].max())
        assert padded <= max_tokens or len(group) == 1
        assert len(group) <= 8 or padded - int(lengths[group].sum()) <= waste * padded


def test_buckets_of_nothing_and_of_equals():
    assert length_buckets(torch.empty(0, dtype=torch.long)) == []
    assert [len(group) for group in length_buckets(torch.full((100,), 7))] == [100]


def test_groups_without_gradients_stay_in_the_processors_cache():
    lengths = torch.full((100,), 64)
    assert len(length_buckets(lengths)) == 1
    with torch.no_grad():
        assert [len(group) for group in length_buckets(lengths)] == [32, 32, 32, 4]
