"""What the class token looks at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steps.models.backbones import Transformer
from steps.models.tokens import embed, encode


@torch.no_grad()
def class_attention(vit: Transformer, images: Tensor) -> Tensor:
    """The attention of the class token to the patches, in the last block.

    Args:
        vit: in evaluation mode.
        images: (B, 3, H, W), normalised.

    Returns:
        (B, heads, N): after the softmax, so that a head's values and those of the class token and
        registers, which are left out, sum to 1.
    """
    attention = vit.blocks[-1].attn
    seen: list[Tensor] = []

    def remember(module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    # A fused kernel never has the map. The plain path hands it to the dropout, in timm's
    # transformers and BEiTs alike, relative positions and all.
    fused, attention.fused_attn = attention.fused_attn, False
    handle = attention.attn_drop.register_forward_pre_hook(remember)
    try:
        encode(vit, embed(vit, images))
    finally:
        handle.remove()
        attention.fused_attn = fused
    (map_BHTT,) = seen
    return map_BHTT[:, :, 0, vit.num_prefix_tokens :]
