"""Drop path (stochastic depth, arXiv:1603.09382) whose draws are inputs, not side effects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn


class Stack(Protocol):
    """A transformer, or any module with blocks as timm's transformers have them."""

    blocks: nn.ModuleList


class DropPath(nn.Module):
    """Drop a residual branch for the samples that ``keep`` says; scale the others by 1 / (1 - p).

    ``keep`` is (B,) bool, set from outside for the length of a forward pass; without it the
    branch passes unchanged.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.keep: Tensor | None = None

    def forward(self, branch_BND: Tensor) -> Tensor:
        if self.keep is None or self.rate == 0:
            return branch_BND
        scale = self.keep.to(branch_BND.dtype) / (1 - self.rate)
        return branch_BND * scale.view(-1, *[1] * (branch_BND.ndim - 1))


def install(stack: Stack, rate: float, *, first: int = 0, points: int | None = None) -> None:
    """Give the blocks of a stack our drop path, the rate rising linearly from 0.

    Args:
        stack: whose blocks are given it.
        rate: of the ramp's last point.
        first: the ramp's point at the first block.
        points: of the ramp; as many as the stack has blocks where absent.
    """
    points = points or len(stack.blocks)
    for index, block in enumerate(stack.blocks, start=first):
        share = rate * index / max(points - 1, 1)
        block.drop_path1 = DropPath(share)
        block.drop_path2 = DropPath(share)


def sample(stack: Stack, batch: int, generator: torch.Generator) -> Tensor:
    """Draw which branches each sample keeps: (B, 2 * blocks) bool."""
    rates = torch.tensor([module.rate for module in _modules(stack)])
    return torch.rand(batch, len(rates), generator=generator) >= rates


@contextmanager
def dropping(stack: Stack, keep: Tensor | None) -> Iterator[None]:
    """Within the context the blocks drop their branches by ``keep``, (B, 2 * blocks) bool."""
    modules = _modules(stack)
    for index, module in enumerate(modules):
        module.keep = None if keep is None else keep[:, index]
    try:
        yield
    finally:
        for module in modules:
            module.keep = None


def _modules(stack: Stack) -> list[DropPath]:
    modules = [path for block in stack.blocks for path in (block.drop_path1, block.drop_path2)]
    return [module for module in modules if isinstance(module, DropPath)]
