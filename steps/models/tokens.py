"""From images to tokens and through the blocks of a timm vision transformer, BEiT or EVA."""

from __future__ import annotations

import math
from typing import cast

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import Block
from torch import Tensor

from steps.models import drop_path, row_drop
from steps.models.backbones import Transformer, own_resizing
from steps.models.positions import Resizing, resize_table


def patch_tokens(vit: Transformer, images: Tensor) -> Tensor:
    """Patch embeddings before positions are added: (B, 3, H, W) to (B, N, D), raster order."""
    return cast(Tensor, vit.patch_embed.proj(images).flatten(2).transpose(1, 2))


def patch_tokens_at(vit: Transformer, images: Tensor, patches_BK: Tensor) -> Tensor:
    """Embeddings of some patches, the others not computed: (B, 3, H, W) to (B, K, D).

    Args:
        vit: whose patches they are.
        images: (B, 3, H, W).
        patches_BK: which patches of each image, in raster order from 0; their order is kept.
    """
    size = vit.patch_embed.patch_size[0]
    # A patch embedding sees one patch at a time, so cut patches go through it as a batch.
    grid = images.unfold(2, size, size).unfold(3, size, size)  # (B, 3, rows, columns, P, P)
    pixels = grid.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    samples = torch.arange(len(images), device=images.device).unsqueeze(1)
    tokens: Tensor = vit.patch_embed.proj(pixels[samples, patches_BK].flatten(0, 1))
    return tokens.view(len(images), -1, tokens.shape[1])


def embed(
    vit: Transformer,
    images: Tensor,
    mask_BN: Tensor | None = None,
    mask_token: Tensor | None = None,
    resizing: Resizing | None = None,
) -> Tensor:
    """Class token, registers and patch tokens with their positions.

    The position table's rows are those of the patches, behind as many rows for prefix tokens as
    it has: the class token and registers that have none get none. An image of another size than
    the table's gets a resized table.

    Args:
        vit: a transformer; one without a class token begins with its registers, if any.
        images: (B, 3, H, W).
        mask_BN: True where a patch gives way to ``mask_token``, which takes its position.
        mask_token: broadcast to (B, N, D).
        resizing: how the table is resized; None: as the backbone itself says.

    Returns:
        (B, P + N, D), P prefix tokens: class token and registers.
    """
    size = vit.patch_embed.patch_size[0]
    grid = (images.shape[-2] // size, images.shape[-1] // size)
    patches = patch_tokens(vit, images)
    if mask_BN is not None and mask_token is not None:
        # Before positions are added: a masked patch still says where it is.
        patches = torch.where(mask_BN.unsqueeze(2), mask_token.to(patches.dtype), patches)
    prefix = prefix_tokens(vit)
    if vit.pos_embed is not None:
        rows = vit.pos_embed.shape[1] - vit.patch_embed.num_patches
        table = resize_table(vit.pos_embed, grid, rows, resizing or own_resizing(vit))
        # timm gives registers no position where the table has rows for the class token only.
        prefix = torch.cat([prefix[:, :rows] + table[:, :rows], prefix[:, rows:]], dim=1)
        patches = patches + table[:, rows:]
    return torch.cat([prefix.expand(len(images), -1, -1), patches], dim=1)


def prefix_tokens(vit: Transformer) -> Tensor:
    """Class token and registers, as far as a transformer has them: (1, P, D)."""
    tokens = [vit.cls_token, getattr(vit, "reg_token", None)]
    found = [token for token in tokens if token is not None]
    if not found:
        return cast(Tensor, vit.patch_embed.proj.weight.new_zeros(1, 0, vit.embed_dim))
    return torch.cat(found, dim=1) if len(found) > 1 else found[0]


def rotary(eva: Eva, grid: tuple[int, int]) -> list[Tensor | None]:
    """Rotary positions of a grid of patches, for each block.

    DINOv3's positions run from -1 to 1 over any grid, EVA-02's stretch the grid of pretraining over
    it (``ref_feat_shape``); others count patches.

    Args:
        eva: of timm.
        grid: (rows, columns).

    Returns:
        One (N, 2 * head dim) a block, or (heads, N, 2 * head dim) where each has its own; None
        for blocks of an EVA with learnt positions only.

    Raises:
        ValueError: timm made the model for one other grid.
    """
    if eva.rope is None:
        return [None] * len(eva.blocks)
    if eva.dynamic_img_size:
        table = eva.rope.get_embed(shape=grid)
    elif grid == tuple(eva.patch_embed.grid_size):
        table = eva.rope.get_embed()
    else:
        raise ValueError(f"rotary positions of a grid of {eva.patch_embed.grid_size}, not {grid}")
    return list(table) if eva.rope_mixed else [table] * len(eva.blocks)


def _square(eva: Eva, tokens_BND: Tensor) -> tuple[int, int]:
    """The grid of tokens of a square image."""
    patches = tokens_BND.shape[1] - eva.num_prefix_tokens
    side = math.isqrt(patches)
    if side**2 != patches:
        raise ValueError(f"{patches} patches are those of no square image")
    return side, side


def encode(
    vit: Transformer,
    tokens_BND: Tensor,
    keep: Tensor | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Tensor:
    """Blocks of the transformer, all or from ``start`` to ``stop``, without its final norm.

    Args:
        vit: a BEiT takes only images of the size it was built for, for its relative positions. An
            EVA takes all patches of square images, in raster order, for its rotary ones.
        tokens_BND: (B, N, D), as the block before ``start`` left them.
        keep: drop-path draws (B, 2 * depth), or None to keep every branch.
        start, stop: the first block to run, and the block to stop before.

    Returns:
        (B, N, D).
    """
    blocks = vit.blocks[start:stop]
    # On a CPU dropped branches are left out. Elsewhere the device would have to wait for the host
    # to learn which they are, and they are computed and multiplied by 0.
    if keep is not None and _can_leave_out(vit, tokens_BND):
        gates = drop_path.gates(vit, keep)
        tokens_BND = vit.norm_pre(tokens_BND) if start == 0 else tokens_BND
        for index, block in enumerate(blocks, start):
            tokens_BND = row_drop.through_block(
                block, tokens_BND, gates[:, 2 * index : 2 * index + 2]
            )
        return tokens_BND
    with drop_path.dropping(vit, keep):
        if isinstance(vit, Beit):
            bias = relative_bias(vit)
            for block in blocks:
                tokens_BND = block(tokens_BND, shared_rel_pos_bias=bias)
            return tokens_BND
        if start == 0:
            tokens_BND = vit.norm_pre(tokens_BND)
        if isinstance(vit, Eva):
            positions = rotary(vit, _square(vit, tokens_BND))[start:stop]
            for block, rope in zip(blocks, positions, strict=True):
                tokens_BND = block(tokens_BND, rope=rope)
            return tokens_BND
        for block in blocks:
            tokens_BND = block(tokens_BND)
    return tokens_BND


def relative_bias(beit: Beit) -> Tensor | None:
    """Bias that all blocks add to their logits, (heads, query, key), if they share a table."""
    return None if beit.rel_pos_bias is None else cast(Tensor, beit.rel_pos_bias())


def _can_leave_out(vit: Transformer, tokens_BND: Tensor) -> bool:
    """True if the branches of dropped samples need not be computed."""
    plain = all(isinstance(block, Block) for block in vit.blocks)
    return tokens_BND.device.type == "cpu" and plain and drop_path.is_complete(vit)
