"""BEiT's transformer (arXiv:2106.08254): relative positions as biases, and layer scale."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from timm.models.beit import Beit, Block
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from steps.command import UserError
from steps.models.backbones import Transformer, create_backbone
from steps.params.backbone import Backbone, BEiTBackbone

ARCHITECTURE = "beit_base_patch16_224"
"""The timm architecture that arguments make a BEiT of any size."""


def as_beit(backbone: Backbone, options: BEiTBackbone) -> Backbone:
    """The params of a BEiT with the width, depth and heads of a plain vision transformer.

    Its last norm works on tokens, as in pretraining, and not on their mean.

    Raises:
        UserError: the backbone is no plain vision transformer.
    """
    with torch.device("meta"):
        vit = create_backbone(backbone)
    if not isinstance(vit, VisionTransformer):
        raise UserError(
            f"backbone {backbone.architecture}",
            f"a {type(vit).__name__}, of which no BEiT can be made",
            allowed="timm's VisionTransformer",
        )
    tables = options.relative_positions
    arguments: dict[str, Any] = {
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": vit.blocks[0].attn.num_heads,
        "mlp_ratio": vit.blocks[0].mlp.fc1.out_features / vit.embed_dim,
        "init_values": options.layer_scale,
        "use_abs_pos_emb": options.absolute_positions,
        "use_shared_rel_pos_bias": tables in ("shared", "both"),
        "use_rel_pos_bias": tables in ("block", "both"),
        "use_fc_norm": False,
    }
    # A copy is not validated: params files may not name the architecture themselves.
    return backbone.model_copy(update={"architecture": ARCHITECTURE, "model_args": arguments})


def separate_tables(backbone: Transformer) -> None:
    """Give each block of a BEiT its own copy of the table that they share, as fine-tuning does.

    The function stays the same; each table then learns at its block's rate (BEiT, reference
    code). Any other backbone is left as it is.
    """
    if not isinstance(backbone, Beit) or backbone.rel_pos_bias is None:
        return
    shared = backbone.rel_pos_bias
    for block in backbone.blocks:
        attn = block.attn
        table: Tensor = shared.relative_position_bias_table.detach().clone()
        if attn.relative_position_bias_table is not None:
            # A block may have a table of its own beside the shared one: their sum acts.
            table += attn.relative_position_bias_table.detach()
        # timm builds a block's table only if the block has a window.
        attn.window_size = shared.window_size
        attn.relative_position_bias_table = nn.Parameter(table)
        del attn.relative_position_index
        index = shared.relative_position_index.clone()
        attn.register_buffer("relative_position_index", index, persistent=False)
    backbone.rel_pos_bias = None


def initialise(module: nn.Module, std: float) -> None:
    """BEiT's initialisation: weights normal, cut at one standard deviation; biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            cut_normal(part.weight, std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def initialise_backbone(beit: Beit, std: float) -> None:
    """The same for a whole BEiT, its tokens and positions included; residual branches shrink."""
    initialise(beit, std)
    cut_normal(beit.cls_token, std)
    if beit.pos_embed is not None:
        cut_normal(beit.pos_embed, std)
    # After the normal draws, which it scales.
    shrink_branches(beit.blocks)


def cut_normal(tensor: Tensor, std: float) -> None:
    """Fill with normal draws, cut at one standard deviation."""
    nn.init.trunc_normal_(tensor, std=std, a=-std, b=std)


@torch.no_grad()
def shrink_branches(blocks: Iterable[Block], first: int = 0) -> None:
    """Divide the last layer of each residual branch of block l, from 1, by sqrt(2 l).

    Args:
        blocks: of a BEiT.
        first: blocks that come before them.
    """
    for index, block in enumerate(blocks, start=first + 1):
        block.attn.proj.weight.div_(math.sqrt(2 * index))
        block.mlp.fc2.weight.div_(math.sqrt(2 * index))
