"""Batch norm over two processes against torch's over the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from steps.models.batch_norm import BatchNorm1d, BatchNorm2d
from tests.golden.ranks import on_ranks

SHAPES = {1: (8, 5), 2: (8, 5, 3, 4)}


def _norm(kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d]) -> nn.Module:
    norm = kind(5)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 1.5, 5))
        norm.bias.copy_(torch.linspace(-1, 1, 5))
    return norm


def _forward_and_backward(norm: nn.Module, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
    rows.requires_grad_(True)
    output = norm(rows)
    (output * weights).sum().backward()
    assert rows.grad is not None
    return {
        "output": output.detach(),
        "grad": rows.grad,
        **{name: parameter.grad for name, parameter in norm.named_parameters()},
        **dict(norm.named_buffers()),
    }


def _ours(axes: int, rows: Tensor, weights: Tensor) -> dict[str, Tensor]:
    return _forward_and_backward(_norm(BatchNorm1d if axes == 1 else BatchNorm2d), rows, weights)


@pytest.mark.parametrize("axes", [1, 2])
def test_two_processes_equal_one_batch(axes: int) -> None:
    torch.manual_seed(0)
    rows, weights = 3 + 2 * torch.randn(SHAPES[axes]), torch.randn(SHAPES[axes])
    halves = [(axes, *pair) for pair in zip(rows.chunk(2), weights.chunk(2), strict=True)]
    first, second = on_ranks(_ours, [(a, r.clone(), w.clone()) for a, r, w in halves])
    theirs = nn.BatchNorm1d if axes == 1 else nn.BatchNorm2d
    whole = _forward_and_backward(_norm(theirs), rows, weights)
    for name in ("output", "grad"):
        assert torch.allclose(torch.cat([first[name], second[name]]), whole[name], atol=1e-5), name
    for name in ("weight", "bias"):
        assert torch.allclose(first[name] + second[name], whole[name], atol=1e-4), name
    for name in ("running_mean", "running_var"):
        assert torch.allclose(first[name], whole[name], atol=1e-6), name
        assert torch.equal(first[name], second[name]), name
    assert first["num_batches_tracked"] == whole["num_batches_tracked"] == 1
