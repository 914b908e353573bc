"""Feature pyramids: strides, channels, and which levels mix."""

from __future__ import annotations

from typing import Literal

import mmdet.models  # noqa: F401 (registers FPN)
import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from steps.detection.pyramid import BlockPyramid, ChannelNorm, SimplePyramid, pyramid_scales


@pytest.mark.parametrize(
    ("patch", "strides", "expected"),
    [
        (16, [4, 8, 16, 32, 64], [4, 8, 16, 32, 64]),
        (8, [4, 8, 16, 32], [4, 8, 16, 32]),
        (4, [4, 8, 16], [4, 8, 16]),
        (32, [4, 8, 16, 32, 64], [4, 8, 16, 32, 64]),
        (14, [4, 8, 16, 32, 64], [3.5, 7, 14, 28, 56]),
    ],
)
def test_strides_for_each_patch_size(patch: int, strides: list[int], expected: list[float]) -> None:
    scales = pyramid_scales(patch, strides)
    assert [patch / scale for scale in scales] == expected
    maps = torch.randn(1, 16, 16, 16)
    levels = SimplePyramid(16, scales, 8)((maps,))
    assert [level.shape for level in levels] == [
        (1, 8, int(16 * scale), int(16 * scale)) for scale in scales
    ]
    # RoIAlign's kernels take rows for granted.
    assert all(level.is_contiguous() for level in levels[:-1])


def test_last_level_picks_every_other_place() -> None:
    levels = SimplePyramid(16, [1, 0.5, 0.25], 8)((torch.randn(1, 16, 6, 10),))
    assert torch.equal(levels[2], levels[1][:, :, ::2, ::2])


def test_channel_norm_is_a_layer_norm_over_channels() -> None:
    norm = ChannelNorm(5)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 5, 3, 4)
    mean = x.mean(1, keepdim=True)
    variance = x.var(1, keepdim=True, correction=0)
    expected = (x - mean) / (variance + 1e-6).sqrt()
    expected = expected * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(norm(x), expected)


def block_pyramid(norm: Literal["batch", "group"] = "group") -> BlockPyramid:
    torch.manual_seed(0)
    fpn = {"type": "FPN", "in_channels": [32] * 4, "out_channels": 8, "num_outs": 5}
    with DefaultScope.overwrite_default_scope("mmdet"):
        return BlockPyramid(32, [4, 2, 1, 0.5], norm, fpn)


def test_maps_of_blocks_become_levels_of_falling_resolution() -> None:
    maps = tuple(torch.randn(1, 32, 8, 12) for _ in range(4))
    levels = block_pyramid()(maps)
    assert [tuple(level.shape) for level in levels] == [
        (1, 8, 32, 48), (1, 8, 16, 24), (1, 8, 8, 12), (1, 8, 4, 6), (1, 8, 2, 3)
    ]  # fmt: skip
    assert all(level.is_contiguous() for level in levels)


def test_resampling_keeps_the_width_and_norms_between_two_convolutions() -> None:
    # Reference: BEiT's and iBOT's detection backbones; arXiv:2111.11429, section 2.2.
    kinds = [[type(layer) for layer in scale.modules()][1:] for scale in block_pyramid().scale]
    up, twice = [nn.ConvTranspose2d], [nn.ConvTranspose2d, nn.GroupNorm, nn.GELU]
    assert kinds[:3] == [[*twice, nn.ConvTranspose2d], up, []]
    assert isinstance(block_pyramid().scale[3], nn.MaxPool2d)
    assert isinstance(block_pyramid("batch").scale[0][1], nn.BatchNorm2d)
    assert block_pyramid().scale[0][0].out_channels == 32


def test_coarse_levels_reach_finer_ones_and_not_the_other_way() -> None:
    pyramid = block_pyramid().eval()
    maps = [torch.randn(1, 32, 8, 8) for _ in range(4)]
    with torch.no_grad():
        before = pyramid(tuple(maps))
        maps[2] = maps[2] + 1
        after = pyramid(tuple(maps))
    changed = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert changed == [True, True, True, False, False]
