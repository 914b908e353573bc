"""Where a backbone looks, and what its patch tokens tell apart, as a sheet of pictures."""

from __future__ import annotations

import torch
from matplotlib import colormaps
from torch import Tensor

from steps.diagnosis.sheet import png, sheet
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.layout import (
    AttentionMaps,
    foreground_colours,
    heaviest,
    principal_colours,
    to_pixels,
)
from steps.models.features import class_attention
from steps.models.tokens import embed, encode
from steps.params.protocols import Layout

_OUTSIDE = 0.25
"""Brightness that is left outside a mask."""


@torch.inference_mode()
def draw(backbone: FrozenBackbone, seen: AttentionMaps, head: int, protocol: Layout) -> bytes:
    """A PNG, one row per image: itself, a head's attention, its mask, patch tokens as colours.

    Attention is stretched from each image's least to its most, as DINO's figures are, so that its
    colours say where and not how much.

    Args:
        backbone: the one that ``seen`` is of.
        seen: where it looks.
        head: which one is drawn.
        protocol: how many images, and the masks' share.
    """
    count = min(protocol.shown, len(seen.images))
    chosen = torch.linspace(0, len(seen.images) - 1, count).round().long()
    images = seen.images[chosen]
    side = images.shape[-1]
    attention = seen.attention[chosen, head]
    pixels = images.float() / 255
    inside = to_pixels(heaviest(attention, protocol.mass), side).unsqueeze(1)
    columns: tuple[Tensor, ...] = (
        pixels,
        stretched(attention, side),
        torch.where(inside, pixels, pixels * _OUTSIDE),
        to_pixels(principal_colours(_patch_tokens(backbone, images)).transpose(1, 2), side),
    )
    return png(sheet(list(zip(*columns, strict=True))))


@torch.inference_mode()
def draw_any(backbone: FrozenBackbone, images: Tensor, each_head: bool) -> bytes:
    """A PNG, one row per image: itself, attention, patch tokens as colours, those of objects.

    Args:
        backbone: a transformer with a class token.
        images: (B, 3, S, S) uint8.
        each_head: a column for each head of the last block, instead of their mean.
    """
    side = images.shape[-1]
    attention = class_attention(backbone.transformer, backbone.inputs(images)).float().cpu()
    heads = attention.unbind(1) if each_head else (attention.mean(dim=1),)
    tokens = _patch_tokens(backbone, images)
    columns: tuple[Tensor, ...] = (
        images.float() / 255,
        *(stretched(head, side) for head in heads),
        *(
            to_pixels(colours(tokens).transpose(1, 2), side)
            for colours in (principal_colours, foreground_colours)
        ),
    )
    return png(sheet(list(zip(*columns, strict=True))))


def stretched(attention: Tensor, side: int) -> Tensor:
    """Attention (B, N) as colours (B, 3, side, side), from each image's least to its most."""
    low, high = attention.amin(dim=1, keepdim=True), attention.amax(dim=1, keepdim=True)
    return heat(to_pixels((attention - low) / (high - low).clamp(min=1e-12), side))


def _patch_tokens(backbone: FrozenBackbone, images: Tensor) -> Tensor:
    """Patch tokens (B, N, D) after the final norm, on the CPU."""
    vit = backbone.transformer
    tokens: Tensor = vit.norm(encode(vit, embed(vit, backbone.inputs(images))))
    return tokens[:, vit.num_prefix_tokens :].float().cpu()


def heat(values: Tensor) -> Tensor:
    """Values in 0 to 1 (B, H, W) as colours (B, 3, H, W), dark to bright."""
    colours = colormaps["viridis"](values.numpy())[..., :3]
    return torch.from_numpy(colours).permute(0, 3, 1, 2).float()
