"""Feature pyramids on a plain transformer.

ViTDet's simple one (arXiv:2203.16527, section 3): every level from one map. The older one, of BEiT,
iBOT and MAE: maps of several blocks, resampled to a level each, then FPN (arXiv:1612.03144).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W), as ViTDet has in its pyramid and heads.

    Args:
        channels: C.
        eps: added to the variance.
    """

    _abbr_ = "ln"  # what mmcv names the layer by; "norm" it uses itself

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise each position over its channels; the shape stays."""
        x = x_BCHW.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """Levels of different strides from the last map of a plain transformer.

    A level with ``1 / 2**k`` of the map's stride comes from k transposed convolutions (a norm and
    GELU between two), one with ``2**k`` times it from max pooling; then a 1x1 and a 3x3
    convolution, each with a norm and without activation. The last level picks every other position
    of the one before. Nothing flows from level to level.

    Args:
        embed_dim: channels of the map.
        scales: a level's resolution over the map's, each a power of two, falling by halves.
        channels: of every level.
        eps: of the norms.
    """

    def __init__(
        self, embed_dim: int, scales: Sequence[float], channels: int, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.scale = nn.ModuleList()
        self.lateral = nn.ModuleList()
        self.output = nn.ModuleList()
        for scale in scales[:-1]:
            resize, width = _resize(embed_dim, scale, eps)
            self.scale.append(resize)
            self.lateral.append(
                nn.Sequential(nn.Conv2d(width, channels, 1, bias=False), ChannelNorm(channels, eps))
            )
            self.output.append(
                nn.Sequential(
                    nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                    ChannelNorm(channels, eps),
                )
            )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(B, D, H, W), alone in a tuple -> one (B, channels, H * scale, W * scale) a level."""
        (x,) = maps
        levels = [
            # The norm leaves channels last in memory, which RoIAlign's kernels misread.
            output(lateral(scale(x))).contiguous()
            for scale, lateral, output in zip(self.scale, self.lateral, self.output, strict=True)
        ]
        levels.append(levels[-1][:, :, ::2, ::2])
        return tuple(levels)


def _resize(dim: int, scale: float, eps: float) -> tuple[nn.Module, int]:
    """The layers that bring a map to ``scale`` times its resolution, and their output channels."""
    if scale < 1:
        factor = round(1 / scale)
        return nn.MaxPool2d(factor, factor), dim
    layers: list[nn.Module] = []
    for k in range(round(math.log2(scale))):
        if k:
            layers += [ChannelNorm(dim, eps), nn.GELU()]
        layers.append(nn.ConvTranspose2d(dim, dim // 2, 2, stride=2))
        dim //= 2
    return nn.Sequential(*layers), dim


class BlockPyramid(nn.Module):
    """Levels of different strides from the maps of as many blocks (arXiv:2111.11429, section 2.2).

    A map is brought to a level's resolution by transposed convolutions (a norm and GELU between
    two) or max pooling, at the transformer's width; what FPN makes of them are the levels.

    Args:
        embed_dim: channels of each map.
        scales: a level's resolution over the maps', each a power of two.
        norm: between two transposed convolutions: over the batch (BEiT, iBOT) or in 32 groups.
        fpn: mmdet's configuration of FPN.
    """

    def __init__(
        self,
        embed_dim: int,
        scales: Sequence[float],
        norm: Literal["batch", "group"],
        fpn: dict[str, Any],
    ) -> None:
        super().__init__()
        self.scale = nn.ModuleList(_resample(embed_dim, scale, norm) for scale in scales)
        self.fpn = MODELS.build(fpn)

    def init_weights(self) -> None:
        """FPN's weights as mmdet starts them; mmengine calls this."""
        self.fpn.init_weights()

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """(B, D, H, W), one a level but the last -> (B, channels, H * scale, W * scale) a level."""
        resampled = [scale(x) for scale, x in zip(self.scale, maps, strict=True)]
        return tuple(level.contiguous() for level in self.fpn(resampled))


def _resample(dim: int, scale: float, norm: Literal["batch", "group"]) -> nn.Module:
    if scale < 1:
        factor = round(1 / scale)
        return nn.MaxPool2d(factor, factor)
    layers: list[nn.Module] = []
    for k in range(round(math.log2(scale))):
        if k:
            layers += [nn.BatchNorm2d(dim) if norm == "batch" else nn.GroupNorm(32, dim), nn.GELU()]
        layers.append(nn.ConvTranspose2d(dim, dim, 2, stride=2))
    return nn.Sequential(*layers)


def pyramid_scales(patch_size: int, strides: Sequence[int]) -> list[float]:
    """Resolution of each level over the patch map's: powers of two nearest to patch / stride.

    A patch of 16 gives strides 4, 8, 16, ... exactly; one of 14 gives 3.5, 7, 14, ...
    """
    return [2.0 ** round(math.log2(patch_size / stride)) for stride in strides]
