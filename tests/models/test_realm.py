"""p(y|x) = sum over z of p(y|z,x) p(z|x), written out passage by passage, against Realm's one pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_models import BERT, naive_hidden_states, naive_inputs, random_sequences, tiny_realm

from realm_train.batch import MISSING, Candidates, MaskedBatch, Sequences
from realm_train.models.encoder import load_encoder
from realm_train.models.realm import Realm
from realm_train.objectives.marginal import marginal_log_likelihood, posterior

QUESTIONS, PASSAGES, MASKS, SEP = 4, 4, 3, 2


@pytest.fixture
def batch() -> MaskedBatch:
    """Four questions, one of them without any mask."""
    queries = random_sequences(QUESTIONS, shortest=6, longest=15)
    queries = Sequences(ids=queries.ids, lengths=queries.lengths, second=queries.lengths)
    generator = torch.Generator().manual_seed(1)
    valid = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]]).bool()
    positions = torch.where(valid, torch.tensor([[1, 2, 4]]), 0)
    return MaskedBatch(
        queries=queries,
        original_ids=queries.ids,
        positions=positions,
        targets=torch.randint(50, (QUESTIONS, MASKS), generator=generator),
        valid=valid,
        spans=torch.tensor([[0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]),
        source=torch.full((QUESTIONS,), MISSING),
        exclude=torch.full((QUESTIONS, 1), MISSING),
        helpful=torch.full((QUESTIONS,), MISSING),
        step_masks=6,
    )


def candidates(present: torch.Tensor | None = None) -> Candidates:
    """The null passage and every other one of a tiny corpus, for each question in an order of its own."""
    passages = random_sequences(PASSAGES, longest=30, seed=2)
    bodies = random_sequences(PASSAGES, longest=25, seed=3)
    passages.lengths[0], passages.second[0], bodies.lengths[0] = 3, 2, 0
    passages.ids[0], passages.ids[0, :3] = 0, torch.tensor([1, SEP, SEP])
    generator = torch.Generator().manual_seed(4)
    others = torch.stack([torch.randperm(PASSAGES - 1, generator=generator) + 1 for _ in range(QUESTIONS)])
    rows = torch.nn.functional.pad(others, (1, 0))
    present = torch.ones(QUESTIONS, PASSAGES).bool() if present is None else present
    return Candidates(
        ids=torch.where(present, rows - 1, MISSING),
        present=present,
        rows=torch.where(present, rows, 0),
        passages=passages,
        bodies=bodies.ids,
        body_lengths=bodies.lengths,
    )


def naive(realm: Realm, batch: MaskedBatch, found: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and log-likelihoods, one question and one passage at a time, through the plain parts."""
    queries = [naive_vector(realm.towers.query, batch.queries, b) for b in range(QUESTIONS)]
    passages = [naive_vector(realm.towers.passage, found.passages, row) for row in range(PASSAGES)]
    scores = torch.full(found.present.shape, -torch.inf)
    likelihood = torch.zeros(*found.present.shape, MASKS)
    for b, k in found.present.nonzero().tolist():
        row = int(found.rows[b, k])
        scores[b, k] = realm.towers.scale * queries[b] @ passages[row]
        if batch.valid[b].any():
            likelihood[b, k] = naive_likelihood(realm, batch, found, b, row)
    return scores, likelihood


def naive_likelihood(realm, batch, found, b, row) -> torch.Tensor:
    query = batch.queries.ids[b, : batch.queries.lengths[b]]
    ids = torch.cat([query, found.bodies[row, : found.body_lengths[row]], torch.tensor([SEP])])
    ids = (
        torch.cat([ids[: realm.max_joint_length - 1], torch.tensor([SEP])])
        if len(ids) > realm.max_joint_length
        else ids
    )
    joint = Sequences(ids[None], torch.tensor([len(ids)]), torch.tensor([len(query)]))
    words = realm.reader.masked_lm(**naive_inputs(realm.reader.masked_lm, joint, 0)).logits[0].log_softmax(-1)
    return torch.where(batch.valid[b], words[batch.positions[b], batch.targets[b]], 0)


def naive_vector(tower, sequences, row) -> torch.Tensor:
    return tower.norm(tower.projection(naive_hidden_states(tower.encoder, sequences, row)[0]))


def log_p(realm, batch, found, per="token") -> torch.Tensor:
    output = realm(batch, found)
    return marginal_log_likelihood(output.log_prior, output.log_likelihood, batch.valid, batch.spans, per)


@pytest.mark.parametrize("per", ["token", "span"])
@pytest.mark.parametrize("shared", [True, False])
def test_all_passages_give_the_exact_sum_and_its_gradient(batch, per, shared):
    realm = tiny_realm(towers={"shared": shared, "scale": 0.3}).eval()
    if not shared:
        torch.nn.init.normal_(realm.towers.query.projection.weight)
    scores, likelihood = naive(realm, batch, candidates())
    prior = scores.softmax(dim=1)
    p = [torch.ones(())] * QUESTIONS
    for b in range(QUESTIONS):
        groups = batch.spans[b] if per == "span" else torch.arange(MASKS)
        for group in set(groups[batch.valid[b]].tolist()):
            member = batch.valid[b] & (groups == group)
            p[b] = p[b] * sum(prior[b, k] * likelihood[b, k, member].sum().exp() for k in range(PASSAGES))
    got = log_p(realm, batch, candidates(), per)
    expected = torch.stack(p).log()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    parameters = [value for name, value in realm.named_parameters() if "pooler" not in name]
    for one, other in zip(
        torch.autograd.grad(got.sum(), parameters), torch.autograd.grad(expected.sum(), parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


def test_the_joint_input_is_cut_at_its_length(batch):
    realm = tiny_realm(max_joint_length=20).eval()
    assert (batch.queries.lengths.min() + candidates().body_lengths.max() + 1) > 20
    _, likelihood = naive(realm, batch, candidates())
    torch.testing.assert_close(realm.read(batch, candidates()), likelihood, rtol=0, atol=1e-4)


def missing_slots() -> torch.Tensor:
    present = torch.ones(QUESTIONS, PASSAGES).bool()
    present[0, 2:] = present[1, 1:] = present[3, 2] = False  # the second question has the null passage alone
    return present


def test_missing_slots_are_inert(batch):
    realm = tiny_realm().eval()
    found = candidates(missing_slots())
    output = realm(batch, found)
    assert (output.log_prior.isneginf() == ~found.present).all() and torch.equal(output.present, found.present)
    scores, likelihood = naive(realm, batch, found)
    expected = marginal_log_likelihood(scores.log_softmax(1), likelihood, batch.valid, batch.spans)
    got = log_p(realm, batch, found)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    (-got.sum()).backward()
    gradients = {name: value.grad for name, value in realm.named_parameters() if value.grad is not None}
    assert gradients and all(gradient.isfinite().all() for gradient in gradients.values())


def test_what_a_missing_slot_points_at_is_never_looked_at(batch):
    realm = tiny_realm().eval()
    found = candidates(missing_slots())
    elsewhere = torch.where(found.present, found.rows, PASSAGES - 1)
    moved = dataclasses.replace(found, rows=elsewhere)
    one, other = realm(batch, found), realm(batch, moved)
    assert torch.equal(one.scores, other.scores) and torch.equal(one.log_likelihood, other.log_likelihood)


def test_permuting_the_candidates_changes_nothing(batch):
    realm = tiny_realm().eval()
    found = candidates(missing_slots())
    order = torch.tensor([3, 0, 1, 2])
    moved = dataclasses.replace(
        found, ids=found.ids[:, order], present=found.present[:, order], rows=found.rows[:, order]
    )
    torch.testing.assert_close(log_p(realm, batch, moved), log_p(realm, batch, found), rtol=0, atol=1e-5)
    row_order = torch.tensor([3, 0, 1, 2])  # the table of distinct passages in another order
    moved = dataclasses.replace(
        found,
        rows=torch.argsort(row_order)[found.rows],
        passages=Sequences(*(getattr(found.passages, name)[row_order] for name in ("ids", "lengths", "second"))),
        bodies=found.bodies[row_order],
        body_lengths=found.body_lengths[row_order],
    )
    torch.testing.assert_close(log_p(realm, batch, moved), log_p(realm, batch, found), rtol=0, atol=1e-5)


def test_the_same_passage_in_every_slot_is_one_passage(batch):
    realm = tiny_realm().eval()
    found = candidates()
    same = dataclasses.replace(found, rows=torch.full_like(found.rows, 2))
    alone = dataclasses.replace(same, ids=same.ids[:, :1], rows=same.rows[:, :1], present=same.present[:, :1])
    torch.testing.assert_close(log_p(realm, batch, same), log_p(realm, batch, alone), rtol=0, atol=1e-5)


def test_the_gradient_at_the_null_vector_is_posterior_minus_prior(batch):
    """Through the tower: what reaches row 0, the null passage's vector, is the sum of its pulls on the questions."""
    realm = tiny_realm(towers={"scale": 0.2}).eval()
    kept = {}
    realm.towers.passage.register_forward_hook(
        lambda tower, inputs, vectors: kept.update(vectors=vectors.requires_grad_())
    )
    one_span = dataclasses.replace(batch, spans=torch.zeros_like(batch.spans))
    queries = realm.towers.query(batch.queries).detach()
    output = realm(one_span, candidates(), queries)
    value = marginal_log_likelihood(output.log_prior, output.log_likelihood, batch.valid, one_span.spans, "span").sum()
    pull = posterior(output.log_prior, output.log_likelihood, batch.valid) - output.log_prior.exp()
    expected = torch.zeros(PASSAGES, 16)
    for b in range(QUESTIONS):
        expected[candidates().rows[b]] += 0.2 * pull[b][:, None].detach() * queries[b]
    gradient = torch.autograd.grad(value, kept["vectors"])[0]
    assert gradient[0].abs().max() > 1e-2
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_a_learned_null_score_replaces_the_towers_and_learns(batch):
    realm = tiny_realm(null_score="learned", towers={"scale": 0.2}).eval()
    tower = tiny_realm(towers={"scale": 0.2}).eval()
    tower.load_state_dict(realm.state_dict(), strict=False)
    with torch.no_grad():
        realm.null_bias.fill_(1.5)
    output, plain = realm(batch, candidates()), tower(batch, candidates())
    assert (output.scores[:, 0] == 1.5).all() and torch.equal(output.scores[:, 1:], plain.scores[:, 1:])
    assert torch.equal(output.log_likelihood, plain.log_likelihood)
    one_span = torch.zeros_like(batch.spans)
    marginal_log_likelihood(output.log_prior, output.log_likelihood, batch.valid, one_span, "span").sum().backward()
    pull = posterior(output.log_prior, output.log_likelihood, batch.valid)[:, 0] - output.log_prior[:, 0].exp()
    assert realm.null_bias.grad.abs() > 1e-3
    torch.testing.assert_close(realm.null_bias.grad, pull.sum().detach(), rtol=1e-4, atol=1e-5)


def test_scores_and_objective_are_fp32_under_autocast(batch):
    realm = tiny_realm(config=BERT | {"initializer_range": 0.05}).eval()
    with torch.autocast("cpu", torch.bfloat16):
        output = realm(batch, candidates())
        value = marginal_log_likelihood(output.log_prior, output.log_likelihood, batch.valid, batch.spans, "span")
    parts = (output.scores, output.log_prior, output.log_likelihood, value)
    assert all(part.dtype == torch.float32 for part in parts)
    assert not torch.equal(output.scores, output.scores.bfloat16().float())  # nor was it rounded on the way
    torch.testing.assert_close(output.log_prior.exp().sum(dim=1), torch.ones(QUESTIONS), rtol=0, atol=1e-5)


def test_vectors_of_the_questions_may_be_given(batch):
    realm = tiny_realm().eval()
    given = realm(batch, candidates(), realm.towers.query(batch.queries))
    assert torch.equal(given.scores, realm(batch, candidates()).scores)


def test_gradient_reaches_towers_and_reader_and_every_parameter(batch):
    """A parameter without gradient would stop training on several GPUs."""
    realm = tiny_realm(towers={"shared": False})
    log_p(realm, batch, candidates()).sum().backward()
    without = [name for name, value in realm.named_parameters() if value.grad is None]
    assert without == []
    assert load_encoder(config=BERT).pooler is None
