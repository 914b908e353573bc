"""Where a backbone looks, and what its patch tokens tell apart, as a sheet of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steps.data.views import normalise
from steps.diagnosis.drawing import png
from steps.diagnosis.sheet import sheet
from steps.evaluation.layout import Seen, heaviest, principal_colours, to_pixels
from steps.models.backbones import Transformer
from steps.models.tokens import embed, encode
from steps.params.protocols import Layout

_OUTSIDE = 0.25
"""Brightness that is left outside a mask."""


@torch.inference_mode()
def draw(
    vit: Transformer,
    seen: Seen,
    head: int,
    protocol: Layout,
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> bytes:
    """A PNG, a row an image: itself, a head's attention, its mask, the patch tokens as colours.

    Args:
        vit: in evaluation mode.
        seen: where it looks.
        head: which one is drawn.
        protocol: how many images, and the masks' share.
        mean, std: of the input that the backbone expects.
    """
    count = min(protocol.shown, len(seen.images))
    chosen = torch.linspace(0, len(seen.images) - 1, count).round().long()
    images = seen.images[chosen]
    side = images.shape[-1]
    attention = seen.attention[chosen, head]
    device = next(vit.parameters()).device
    tokens = vit.norm(encode(vit, embed(vit, normalise(images.to(device), mean, std))))
    colours = principal_colours(tokens[:, vit.num_prefix_tokens :].float().cpu())
    pixels = images.float() / 255
    bright = to_pixels(attention / attention.amax(dim=1, keepdim=True), side)
    inside = to_pixels(heaviest(attention, protocol.mass), side).unsqueeze(1)
    columns: tuple[Tensor, ...] = (
        pixels,
        bright.unsqueeze(1).expand(-1, 3, -1, -1),
        torch.where(inside, pixels, pixels * _OUTSIDE),
        to_pixels(colours.transpose(1, 2), side),
    )
    return png(sheet(list(zip(*columns, strict=True))))
