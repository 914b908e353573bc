"""A fixed network follows its owner's device, and is no part of it otherwise."""

from __future__ import annotations

import copy

import torch
from torch import nn

from steps.models.teacher import PIXELS, FixedNetwork, Renormalise


class _Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.fixed = FixedNetwork(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))


def test_neither_parameters_nor_state() -> None:
    owner = _Owner()
    assert {name for name, _ in owner.named_parameters()} == {"own.weight", "own.bias"}
    assert set(owner.state_dict()) == {"own.weight", "own.bias"}
    owner.load_state_dict(owner.state_dict())


def test_stays_in_eval_mode_and_without_gradients() -> None:
    owner = _Owner().train()
    network = owner.fixed.network
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_follows_its_owner() -> None:
    owner = _Owner().double()
    assert owner.fixed.network[0].weight.dtype == torch.float64
    other = copy.deepcopy(owner)
    assert other.fixed.network is not owner.fixed.network


def test_renormalise() -> None:
    images = torch.rand(2, 3, 4, 4)
    shape = (1, 3, 1, 1)
    mean, std = torch.rand(3), torch.rand(3) + 0.1
    given = (images - mean.view(shape)) / std.view(shape)
    back = Renormalise((mean.tolist(), std.tolist()), PIXELS)(given)
    torch.testing.assert_close(back, images)
    same = Renormalise(([0.5] * 3, [0.2] * 3), ([0.5] * 3, [0.2] * 3))
    assert same(images) is images
