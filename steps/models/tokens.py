"""From images to tokens and through the blocks of a timm vision transformer."""

from __future__ import annotations

from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from steps.models.drop_path import dropping
from steps.models.positions import resize_table


def patch_tokens(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Patch embeddings before positions are added: (B, 3, H, W) to (B, N, D), raster order."""
    return cast(Tensor, vit.patch_embed.proj(images).flatten(2).transpose(1, 2))


def embed(
    vit: VisionTransformer,
    images: Tensor,
    mask_BN: Tensor | None = None,
    mask_token: Tensor | None = None,
) -> Tensor:
    """Class token and patch tokens with their positions: (B, 3, H, W) to (B, 1 + N, D).

    An image of another size than the table's gets a resized table (see ``resize_table``).

    Args:
        vit: with a class token.
        images: (B, 3, H, W).
        mask_BN: True where a patch gives way to ``mask_token``, which takes its position.
        mask_token: broadcast to (B, N, D).
    """
    size = vit.patch_embed.patch_size[0]
    grid = (images.shape[-2] // size, images.shape[-1] // size)
    patches = patch_tokens(vit, images)
    if mask_BN is not None and mask_token is not None:
        patches = torch.where(mask_BN.unsqueeze(2), mask_token.to(patches.dtype), patches)
    tokens = torch.cat([vit.cls_token.expand(len(images), -1, -1), patches], dim=1)
    return tokens + resize_table(vit.pos_embed, grid, vit.num_prefix_tokens)


def encode(vit: VisionTransformer, tokens_BND: Tensor, keep: Tensor | None = None) -> Tensor:
    """All blocks of the transformer, without its final norm.

    Args:
        tokens_BND: (B, N, D).
        keep: drop-path draws (B, 2 * depth), or None to keep every branch.

    Returns:
        (B, N, D).
    """
    tokens_BND = vit.norm_pre(tokens_BND)
    with dropping(vit, keep):
        for block in vit.blocks:
            tokens_BND = block(tokens_BND)
    return tokens_BND
