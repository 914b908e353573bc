"""A BEiT inside the detector: a plain transformer, and biases by relative position beside it."""

from __future__ import annotations

from functools import partial

import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F


class PositionBias(nn.Module):
    """Bias of a block's logits by the offset of two patches, for a grid of any size.

    The pretrained table is resized as it is used (bicubic), like absolute positions; its rows of
    the class token are left out, which the detector does not have.

    Args:
        tables: (rows, heads) each; they are added up. A BEiT has a shared one, one a block, or
            both; here every block has its own, as in BEiT's fine-tuning.
        grid: (rows, columns) of the patches that the tables were made for.
    """

    def __init__(self, tables: list[Tensor], grid: tuple[int, int]) -> None:
        super().__init__()
        offsets = (2 * grid[0] - 1, 2 * grid[1] - 1)
        table = torch.stack(tables).sum(dim=0)[:-3].T.unflatten(1, offsets)
        self.table = nn.Parameter(table.detach().clone())

    def forward(self, height: int, width: int) -> Tensor:
        """(heads, height * width, height * width): query, then key."""
        table: Tensor = self.table
        size = (2 * height - 1, 2 * width - 1)
        if table.shape[1:] != size:
            table = F.interpolate(table.unsqueeze(0), size=size, mode="bicubic").squeeze(0)
        rows, columns = _offsets(height, table.device), _offsets(width, table.device)
        pairs: Tensor = table[:, rows[:, None, :, None], columns[None, :, None, :]]
        return pairs.flatten(3, 4).flatten(1, 2)


def _offsets(size: int, device: torch.device) -> Tensor:
    """(size, size): index in a table of query minus key."""
    at = torch.arange(size, device=device)
    return at[:, None] - at[None, :] + size - 1


def position_biases(beit: Beit) -> nn.ModuleList:
    """One a block; empty where a BEiT has no relative positions."""
    shared = [] if beit.rel_pos_bias is None else [beit.rel_pos_bias.relative_position_bias_table]
    biases = nn.ModuleList()
    for block in beit.blocks:
        own = block.attn.relative_position_bias_table
        if tables := [*shared, *([] if own is None else [own])]:
            biases.append(PositionBias(tables, beit.patch_embed.grid_size))
    return biases


def as_plain(beit: Beit, drop_path: float) -> VisionTransformer:
    """The same transformer without its relative positions.

    Key biases, which a BEiT is without, are zero, and no gradient moves them: a bias on all keys
    changes no attention.
    """
    block = beit.blocks[0]
    vit = VisionTransformer(
        img_size=beit.patch_embed.img_size,
        patch_size=beit.patch_embed.patch_size,
        embed_dim=beit.embed_dim,
        depth=len(beit.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / beit.embed_dim,
        qkv_bias=block.attn.q_bias is not None,
        init_values=block.init_values or None,
        pos_embed="none" if beit.pos_embed is None else "learn",
        norm_layer=partial(nn.LayerNorm, eps=block.norm1.eps),
        drop_path_rate=drop_path,
        num_classes=0,
    )
    vit.load_state_dict(_plain_weights(beit))
    return vit.eval()


def _plain_weights(beit: Beit) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in beit.state_dict().items():
        if name.endswith(("q_bias", "v_bias", "relative_position_bias_table")):
            continue
        renamed = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        weights[renamed] = tensor
    for index, block in enumerate(beit.blocks):
        attn = block.attn
        if attn.q_bias is not None:
            bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
            weights[f"blocks.{index}.attn.qkv.bias"] = bias.detach()
    return weights
