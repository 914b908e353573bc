"""DINOv2's vision transformer: what it adds, the layout in which it is trained, and timm's own.

Two things differ between the layouts. The trained one has a mask token. And where timm keeps no
position for prefix tokens (``no_embed_class``, as its models with registers do), the class token
still has one while it is trained: a learnt row ahead of those of the patches (DINOv2,
arXiv:2304.07193, reference code). Token and row are always added, so that timm's layout holds their
sum; trained apart, an optimiser moves both.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from timm.layers.mlp import GluMlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from steps.command import UserError
from steps.models.backbones import Transformer, create_backbone
from steps.models.positions import Resizing, resize_table
from steps.params.backbone import Backbone
from steps.params.methods.dinov2 import DINOv2Backbone

GATED = "vit_giant_patch14_dinov2"
"""The timm architecture whose MLPs are gated; arguments give it any size."""


def as_dinov2(backbone: Backbone, options: DINOv2Backbone) -> Backbone:
    """The params of a vision transformer of the same size with what DINOv2 adds to it.

    A gated MLP is two thirds as wide as the plain one, rounded up to a multiple of 8, so that it
    has about as many weights (SwiGLU, arXiv:2002.05202, section 2; DINOv2, appendix B.2).

    Raises:
        UserError: the backbone is no plain vision transformer.
    """
    with torch.device("meta"):
        vit = _vision_transformer(create_backbone(backbone))
    added: dict[str, Any] = {"init_values": options.layer_scale}
    if options.registers:
        added |= {"reg_tokens": options.registers, "no_embed_class": True}
    if options.ffn == "mlp":
        return backbone.model_copy(update={"model_args": {**backbone.model_args, **added}})
    hidden = -(-int(vit.blocks[0].mlp.fc1.out_features * 2 / 3) // 8) * 8
    sizes = {
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "num_heads": vit.blocks[0].attn.num_heads,
        # timm's is the width of gate and value together.
        "mlp_ratio": mlp_ratio(2 * hidden, vit.embed_dim),
    }
    # A copy is not validated: timm takes the MLP's class from the architecture only.
    return backbone.model_copy(update={"architecture": GATED, "model_args": {**sizes, **added}})


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio of an MLP's two widths, whose product with the second timm does not round down."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def for_training(vit: Transformer) -> VisionTransformer:
    """Give a fresh vision transformer a mask token and a class position, in place.

    Raises:
        UserError: it is a BEiT, or has registers to which positions are added.
    """
    vit = _vision_transformer(vit)
    if vit.reg_token is not None and not vit.no_embed_class:
        raise UserError(
            "backbone: model_args",
            "registers with positions",
            allowed="no_embed_class: true beside reg_tokens",
        )
    vit.mask_token = nn.Parameter(torch.zeros(1, vit.embed_dim))
    if vit.no_embed_class:
        # The reference learns a position of the class token; timm's model has no row for it.
        row = nn.init.trunc_normal_(torch.zeros(1, 1, vit.embed_dim), std=0.02)
        vit.pos_embed = nn.Parameter(torch.cat([row, vit.pos_embed.detach()], dim=1))
    for module in vit.modules():
        if isinstance(module, GluMlp):
            # timm starts half of a gated MLP from constants; the reference draws all of it.
            nn.init.trunc_normal_(module.fc1.weight, std=0.02)
            nn.init.zeros_(module.fc1.bias)
    return vit


def trained_layout(vit: Transformer, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in timm's layout, in that of the network which is trained: inverse of ``as_timm``.

    timm's class token is the sum of token and row, so that the row is 0. Weights of a network whose
    layout is timm's are left as they are.
    """
    ours, table = dict(weights), getattr(vit, "pos_embed", None)
    if table is not None and (rows := table.shape[1] - weights["pos_embed"].shape[1]):
        class_row = weights["pos_embed"].new_zeros(1, rows, table.shape[2])
        ours["pos_embed"] = torch.cat([class_row, weights["pos_embed"]], dim=1)
    return ours


def as_timm(vit: VisionTransformer) -> VisionTransformer:
    """A copy of a trained vision transformer whose features timm's own forward pass gives."""
    twin = copy.deepcopy(vit)
    # timm's forward pass has no mask token, and would refuse the name when it loads weights.
    del twin.mask_token
    if twin.no_embed_class:
        table = twin.pos_embed.detach()
        twin.cls_token = nn.Parameter(twin.cls_token.detach() + table[:, :1])
        twin.pos_embed = nn.Parameter(table[:, 1:].clone())
    return twin


@torch.no_grad()
def resize(vit: VisionTransformer, side: int, resizing: Resizing) -> None:
    """Make a vision transformer in the trained layout one for images of another size, in place.

    Args:
        side: in pixels, a multiple of the patch size.
        resizing: of the position table, once and for all.
    """
    rows = vit.pos_embed.shape[1] - vit.patch_embed.num_patches
    vit.patch_embed.set_input_size(img_size=(side, side))
    grid: tuple[int, int] = vit.patch_embed.grid_size
    table = resize_table(vit.pos_embed.detach(), grid, rows, resizing)
    vit.pos_embed = nn.Parameter(table.clone(), requires_grad=vit.pos_embed.requires_grad)


def mask_token(vit: Transformer) -> Tensor:
    """Vector that replaces masked patches: (1, D)."""
    return cast(Tensor, vit.mask_token)


def _vision_transformer(vit: Transformer) -> VisionTransformer:
    if not isinstance(vit, VisionTransformer):
        raise UserError(
            "backbone: architecture",
            f"a {type(vit).__name__}, which DINOv2 does not train",
            allowed="timm's VisionTransformer",
        )
    return vit
