"""Schedule, decay and learning rates, parameter by parameter."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_realm
from torch import nn

from realm_train.tasks.optimizer import Optimization


def test_the_schedule_rises_to_its_peak_and_falls_to_zero():
    factor = Optimization(steps=100, warmup=4).factor
    assert [factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [factor(step) for step in (28, 52, 99, 100, 150)] == pytest.approx([0.75, 0.5, 1 / 96, 0.0, 0.0])
    values = [factor(step) for step in range(100)]
    assert max(values) == values[4] == 1.0 and min(values) > 0


@pytest.mark.parametrize("steps, warmup", [(20, 10), (100, 10), (2000, 200), (200_000, 10_000)])
def test_warmup_is_a_tenth_within_bounds(steps, warmup):
    assert all(
        Optimization(steps=steps).factor(step) == Optimization(steps=steps, warmup=warmup).factor(step)
        for step in (0, 1, warmup - 1, warmup, warmup + 1, steps - 1)
    )


def test_without_warmup_it_starts_at_the_peak():
    assert Optimization(steps=10, warmup=0).factor(0) == 1.0


def modules() -> tuple[nn.Module, nn.Module]:
    """A retriever and a reader that share their embeddings."""
    retriever = nn.ModuleDict({"words": nn.Embedding(7, 4), "projection": nn.Linear(4, 3), "norm": nn.LayerNorm(3)})
    reader = nn.ModuleDict({"words": retriever["words"], "head": nn.Linear(4, 7)})
    reader["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    return retriever, reader


def settings_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[tuple[float, float]]:
    return [
        (group["initial_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for one in group["params"]
        if one is parameter
    ]


def test_decay_spares_biases_and_norms_and_shared_parameters_count_once():
    retriever, reader = modules()
    configured = Optimization(steps=10, weight_decay=0.05).configure([(retriever, 1e-3), (reader, 2e-3)])
    optimizer = configured["optimizer"]
    expected = {
        retriever["words"].weight: [(1e-3, 0.05)],
        retriever["projection"].weight: [(1e-3, 0.05)],
        retriever["projection"].bias: [(1e-3, 0.0)],
        retriever["norm"].weight: [(1e-3, 0.0)],
        retriever["norm"].bias: [(1e-3, 0.0)],
        reader["head"].weight: [(2e-3, 0.05)],
        reader["head"].bias: [(2e-3, 0.0)],
        reader["frozen"].weight: [],
    }
    assert {parameter: settings_of(optimizer, parameter) for parameter in expected} == expected
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 7


def test_a_realm_has_every_parameter_once_with_its_own_rate():
    realm = tiny_realm(null_score="learned", towers={"shared": False})
    optimizer = Optimization(steps=10).configure([(realm.towers, 1e-5), (realm.reader, 1e-4), (realm, 1e-5)])[
        "optimizer"
    ]
    for name, parameter in realm.named_parameters():
        rate = 1e-4 if name.startswith("reader.") else 1e-5
        assert settings_of(optimizer, parameter) == [(rate, 0.01 if parameter.dim() > 1 else 0.0)], name


def test_steps_follow_the_schedule_and_decay_is_apart_from_the_gradient():
    """AdamW with no gradient only decays: each step by the rate times the decay."""
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    configured = Optimization(steps=10, warmup=1, weight_decay=0.5).configure([(layer, 0.1)])
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    bias = layer.bias.detach().clone()
    for factor in (0.5, 1.0, 8 / 9):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * factor] * 2)
        layer.weight.grad, layer.bias.grad = torch.zeros(2, 3), torch.zeros(2)
        optimizer.step()
        schedule.step()
        before *= 1 - 0.1 * factor * 0.5
        torch.testing.assert_close(layer.weight.detach(), before)
    assert torch.equal(layer.bias, bias) and configured["lr_scheduler"]["interval"] == "step"
