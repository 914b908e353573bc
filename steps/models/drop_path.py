"""Drop path (stochastic depth, arXiv:1603.09382) whose draws are inputs, not side effects."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from steps.models.backbones import is_resnet


class Stack(Protocol):
    """A transformer, or any module with blocks as timm's transformers have them. A ResNet will do
    as well.
    """

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
        # Multiplied, not indexed: the device need not wait for the host.
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
    branches = _branches(stack)
    points = points or len(branches)
    for index, (block, names) in enumerate(branches, start=first):
        share = rate * index / max(points - 1, 1)
        for name in names:
            setattr(block, name, DropPath(share))


def sample(stack: Stack, batch: int, generator: torch.Generator) -> Tensor:
    """Draw which branches each sample keeps: (B, 2 * blocks) bool, (B, blocks) of a ResNet."""
    rates = torch.tensor([module.rate for module in _modules(stack)])
    # Drawn for branches at rate 0 too: the numbers of one branch do not depend on other rates.
    return torch.rand(batch, len(rates), generator=generator) >= rates


def gates(stack: Stack, keep: Tensor) -> Tensor:
    """Factor of each sample's branches, 0 or 1 / (1 - p): float32, in the shape of ``keep``."""
    rates = _rates(tuple(module.rate for module in _modules(stack)), keep.device)
    return torch.where(rates > 0, keep.float() / (1 - rates), 1.0)


@functools.cache
def _rates(values: tuple[float, ...], device: torch.device) -> Tensor:
    """On the device once: a copy to a GPU would wait for all its work."""
    return torch.tensor(values, device=device)


def is_complete(stack: Stack) -> bool:
    """True if every branch of every block has our drop path."""
    return len(_modules(stack)) == sum(len(names) for _, names in _branches(stack))


@contextmanager
def dropping(stack: Stack, keep: Tensor | None) -> Iterator[None]:
    """Within the context the blocks drop their branches by ``keep``, as ``sample`` draws it."""
    modules = _modules(stack)
    for index, module in enumerate(modules):
        module.keep = None if keep is None else keep[:, index]
    try:
        yield
    finally:
        # Also after an error: stale draws would drop branches of the next batch.
        for module in modules:
            module.keep = None


def _modules(stack: Stack) -> list[DropPath]:
    modules = [getattr(block, name) for block, names in _branches(stack) for name in names]
    return [module for module in modules if isinstance(module, DropPath)]


def _branches(stack: Stack) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """Each block with the names of what drops its residual branches."""
    if is_resnet(stack):
        stages = (stack.layer1, stack.layer2, stack.layer3, stack.layer4)
        return [(block, ("drop_path",)) for stage in stages for block in stage]
    return [(block, ("drop_path1", "drop_path2")) for block in stack.blocks]
