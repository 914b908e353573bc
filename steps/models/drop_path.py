"""Drop path (stochastic depth, arXiv:1603.09382) whose draws are inputs, not side effects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


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


def install(vit: VisionTransformer, rate: float) -> None:
    """Give a vision transformer's blocks our drop path, the rate rising linearly from 0."""
    depth = len(vit.blocks)
    for index, block in enumerate(vit.blocks):
        share = rate * index / max(depth - 1, 1)
        block.drop_path1 = DropPath(share)
        block.drop_path2 = DropPath(share)


def sample(vit: VisionTransformer, batch: int, generator: torch.Generator) -> Tensor:
    """Draw which branches each sample keeps: (B, 2 * depth) bool."""
    rates = torch.tensor([module.rate for module in _modules(vit)])
    return torch.rand(batch, len(rates), generator=generator) >= rates


@contextmanager
def dropping(vit: VisionTransformer, keep: Tensor | None) -> Iterator[None]:
    """Within the context the blocks drop their branches by ``keep``, (B, 2 * depth) bool."""
    modules = _modules(vit)
    for index, module in enumerate(modules):
        module.keep = None if keep is None else keep[:, index]
    try:
        yield
    finally:
        for module in modules:
            module.keep = None


def _modules(vit: VisionTransformer) -> list[DropPath]:
    modules = [path for block in vit.blocks for path in (block.drop_path1, block.drop_path2)]
    return [module for module in modules if isinstance(module, DropPath)]
