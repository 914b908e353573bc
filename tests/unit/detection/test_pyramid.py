"""The simple feature pyramid: strides, channels, and that levels do not mix."""

from __future__ import annotations

import pytest
import torch

from steps.detection.pyramid import ChannelNorm, SimplePyramid, pyramid_scales


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
