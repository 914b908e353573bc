"""The last layer of a head over prototypes."""

from __future__ import annotations

import torch

from steps.models.heads import WeightNormLinear


def test_weight_norm_is_its_formula_in_values_and_gradients() -> None:
    torch.manual_seed(0)
    layer = WeightNormLinear(8, 12, train_length=True)
    torch.nn.init.normal_(layer.weight_g)
    inputs, weighing = torch.randn(5, 8, requires_grad=True), torch.randn(5, 12)
    learnt = (inputs, layer.weight_v, layer.weight_g)
    outputs = layer(inputs)
    direction = layer.weight_v / layer.weight_v.square().sum(dim=1, keepdim=True).sqrt()
    expected = inputs @ (layer.weight_g * direction).T
    torch.testing.assert_close(outputs, expected)
    found = torch.autograd.grad((outputs * weighing).sum(), learnt)
    wanted = torch.autograd.grad((expected * weighing).sum(), learnt)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
