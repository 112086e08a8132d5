"""The reader's log-probabilities are those of Hugging Face's own forward pass, gathered at the masks."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny_models import BERT, DISTILBERT, MODERNBERT, ROBERTA, naive_inputs, padded_wider, picked, random_sequences

from realm_train.batch import Sequences
from realm_train.errors import BadInput
from realm_train.models.reader import Reader, joint_inputs

CONFIGS = pytest.mark.parametrize("config", [BERT, ROBERTA, MODERNBERT], ids=lambda config: config["model_type"])


def tiny_reader(config: dict = BERT, **settings) -> Reader:
    torch.manual_seed(0)
    return Reader.load(config=config, **settings).eval()


def masks(sequences: Sequences, count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, targets and which are masks: none at all in the first row."""
    generator = torch.Generator().manual_seed(5)
    shape = (len(sequences), count)
    positions = (torch.rand(shape, generator=generator) * sequences.lengths[:, None]).long()
    valid = torch.rand(shape, generator=generator) < 0.6
    valid[0], valid[1] = False, True
    return torch.where(valid, positions, 0), torch.randint(50, shape, generator=generator), valid


def naive(reader, sequences, positions, targets, valid) -> torch.Tensor:
    """Row by row, the projection on all positions, then a look at the masks."""
    output = torch.zeros(positions.shape)
    for row in range(len(sequences)):
        words = reader.masked_lm(**naive_inputs(reader.masked_lm, sequences, row)).logits[0].log_softmax(dim=-1)
        for mask in valid[row].nonzero()[:, 0].tolist():
            output[row, mask] = words[positions[row, mask], targets[row, mask]]
    return output


@CONFIGS
def test_log_likelihood_and_gradient_are_those_of_the_plain_model(config):
    reader = tiny_reader(config)
    joint = random_sequences(14, longest=60, pad=config.get("pad_token_id", 0))
    asked = masks(joint)
    got, expected = reader(joint, *asked), naive(reader, joint, *asked)
    assert got.dtype == torch.float32 and (got[~asked[2]] == 0).all() and (expected[asked[2]] < -0.1).any()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    parameters = [parameter for name, parameter in reader.named_parameters() if "pooler" not in name]
    for one, other in zip(
        torch.autograd.grad(got.sum(), parameters), torch.autograd.grad(expected.sum(), parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@CONFIGS
def test_padding_and_grouping_change_nothing(config, monkeypatch):
    reader = tiny_reader(config)
    joint = random_sequences(14, longest=60)
    asked = masks(joint)
    got = reader(joint, *asked)
    torch.testing.assert_close(reader(padded_wider(joint, 9), *asked), got, rtol=0, atol=1e-5)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(0))
    shuffled = reader(picked(joint, order), *(part[order] for part in asked))
    torch.testing.assert_close(shuffled, got[order], rtol=0, atol=1e-5)
    for groups in ([torch.arange(14)], [torch.tensor([row]) for row in range(14)]):
        monkeypatch.setattr("realm_train.models.encoder.length_buckets", lambda lengths, groups=groups: groups)
        torch.testing.assert_close(reader(joint, *asked), got, rtol=0, atol=1e-5)


def test_no_mask_anywhere_is_read_as_zero():
    joint = random_sequences(3)
    positions, targets, valid = masks(joint)
    assert tiny_reader()(joint, positions, targets, torch.zeros_like(valid)).eq(0).all()


def test_log_likelihood_is_fp32_under_autocast():
    reader, joint = tiny_reader(), random_sequences(6)
    asked = masks(joint)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = reader(joint, *asked)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, reader(joint, *asked), rtol=0.05, atol=0.2)


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    tiny_reader().masked_lm.save_pretrained(tmp_path)
    joint = random_sequences(4)
    gradients = []
    for checkpointing in (False, True):
        reader = Reader.load(str(tmp_path), gradient_checkpointing=checkpointing).train()
        assert reader.masked_lm.is_activation_checkpointing == checkpointing
        reader(joint, *masks(joint)).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in reader.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=0, atol=1e-6)


@CONFIGS
def test_a_checkpoint_without_a_head_starts_as_the_identity(config, tmp_path):
    """The head then is: nonlinearity and norm of the hidden state, against the tied word embeddings."""
    torch.manual_seed(0)
    encoder = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config)).eval()
    encoder.save_pretrained(tmp_path)
    reader = Reader.load(str(tmp_path)).eval()
    inputs = {"input_ids": random_sequences(2, shortest=9, longest=9).ids}
    hidden = encoder(**inputs).last_hidden_state
    expected = torch.nn.functional.layer_norm(torch.nn.functional.gelu(hidden), (32,), eps=1e-5)
    expected = expected @ encoder.get_input_embeddings().weight.T
    torch.testing.assert_close(reader.masked_lm(**inputs).logits, expected, rtol=0, atol=1e-3)


@CONFIGS
def test_a_checkpoint_with_a_head_keeps_it(config, tmp_path):
    made = tiny_reader(config)
    made.masked_lm.save_pretrained(tmp_path)
    loaded = Reader.load(str(tmp_path))
    assert made.state_dict().keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items())


def test_a_random_head_is_no_identity():
    assert not torch.equal(tiny_reader().masked_lm.cls.predictions.transform.dense.weight, torch.eye(32))


def test_the_projection_is_tied_to_the_embeddings():
    masked_lm = tiny_reader().masked_lm
    assert masked_lm.get_output_embeddings().weight is masked_lm.get_input_embeddings().weight


def test_a_head_that_is_no_plain_chain_is_refused():
    with pytest.raises(BadInput, match=r"DistilBertForMaskedLM has the head modules .* choose another encoder"):
        Reader.load(config=DISTILBERT)


def naive_joint(query: list[int], body: list[int], max_length: int) -> list[int]:
    return [*query, *body[: max_length - 1 - len(query)], 2]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("max_length", [41, 45, 60, 200])
def test_joint_inputs_are_the_naive_ones(seed, max_length):
    queries = random_sequences(9, seed=seed)
    bodies = random_sequences(9, shortest=0, longest=50, seed=seed + 100)
    joint = joint_inputs(queries, bodies.ids, bodies.lengths, sep_id=2, max_length=max_length)
    for row in range(9):
        query = queries.ids[row, : queries.lengths[row]].tolist()
        expected = naive_joint(query, bodies.ids[row, : bodies.lengths[row]].tolist(), max_length)
        assert joint.lengths[row] == len(expected) <= max_length and joint.second[row] == len(query)
        assert joint.ids[row, : len(expected)].tolist() == expected
    assert joint.ids.shape[1] == joint.lengths.max()


def test_the_null_passage_adds_a_separator_alone():
    queries = random_sequences(3)
    joint = joint_inputs(queries, torch.zeros(3, 0).long(), torch.zeros(3).long(), sep_id=2, max_length=60)
    assert torch.equal(joint.lengths, queries.lengths + 1)
    assert (joint.ids[torch.arange(3), queries.lengths] == 2).all()
