"""The params of a backbone from the shapes of its weights, so that no file needs a description."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models.resnet import ResNet
from torch import Tensor

from steps.command import UserError
from steps.models.backbones import BackboneModel, create_backbone, depth
from steps.models.beit import as_beit
from steps.models.relative_positions import grid_of
from steps.models.token_layout import GATED, mlp_ratio
from steps.params.backbone import Backbone
from steps.params.beit import BEiTBackbone

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}
"""Heads of the published vision transformers, by width: files do not say."""
SCALES = {
    (192, 12): "ViT-Ti",
    (384, 12): "ViT-S",
    (768, 12): "ViT-B",
    (1024, 24): "ViT-L",
    (1280, 32): "ViT-H",
    (1536, 40): "ViT-g",
}
"""Names of widths and depths."""
PLAIN = "vit_base_patch16_224"
QUICK_GELU = "vit_base_patch16_clip_quickgelu_224"
_RESNETS: dict[tuple[tuple[int, ...], bool], tuple[str, str]] = {
    ((3, 4, 6, 3), True): ("resnet50", "ResNet-50")
}
"""timm's architecture and the name in tables, by blocks a stage and bottlenecks."""


class SizeError(ValueError):
    """The shapes are of no backbone that is known; the message says why."""


class UnknownHeadsError(SizeError):
    """How many attention heads there are does not follow from the file."""


def backbone_of(
    weights: Mapping[str, Tensor], heads: int | None, width_to_heads: Mapping[int, int]
) -> Backbone:
    """The params of a backbone.

    Args:
        weights: under timm's names.
        heads: attention heads; None: as published for this width, or as the weights say.
        width_to_heads: of a method that differs from the other published ones.

    Raises:
        SizeError: the shapes are of no backbone that is known.
    """
    if "conv1.weight" in weights:
        return _resnet(weights)
    width, _, _, patch = _need(weights, "patch_embed.proj.weight").shape
    depth = 1 + max((int(n.split(".")[1]) for n in weights if n.startswith("blocks.")), default=-1)
    hidden, _ = _need(weights, "blocks.0.mlp.fc1.weight").shape
    tables = [t for n, t in weights.items() if n.endswith("relative_position_bias_table")]
    beit = bool(tables) or any(n.endswith(("attn.q_bias", ".gamma_1")) for n in weights)
    if heads is None and tables:
        heads = tables[0].shape[1]
    heads = heads or width_to_heads.get(width) or HEADS.get(width)
    if heads is None or width % heads:
        raise UnknownHeadsError(f"{width} channels, of which the attention heads are not known")
    backbone = Backbone(
        scale=SCALES.get((width, depth), f"ViT-{width}x{depth}"),
        architecture=QUICK_GELU if "norm_pre.weight" in weights else PLAIN,
        image_size=patch * _grid(weights, tables),
        patch_size=patch,
        model_args={
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": mlp_ratio(hidden, width),
        },
    )
    return _beit(weights, backbone) if beit else _vit(weights, backbone)


def params_name(backbone: Backbone) -> str:
    """What ``params/backbones/`` calls a backbone of this size, such as vit_b16."""
    if backbone.is_resnet:
        return backbone.architecture
    return f"{backbone.scale.lower().replace('-', '_')}{backbone.patch_size}"


def heads_of(named: Backbone) -> int | None:
    """The attention heads of a backbone that params describe; a ResNet has none."""
    model = _without_weights(named)
    return None if isinstance(model, ResNet) else int(model.blocks[0].attn.num_heads)


def check_size(path: Path, found: Backbone, named: Backbone, where: str) -> None:
    """Hold a file's backbone to the size that params describe.

    Args:
        path: the file.
        found: what is in it.
        named: what it should be, less its method's own (layer scale, relative positions).
        where: the params file.

    Raises:
        UserError: width, depth, heads or patches differ.
    """
    ours, theirs = _size(named), _size(found)
    if ours != theirs:
        raise UserError(
            str(path),
            f"a backbone of {_said(theirs)}",
            allowed=f"{_said(ours)}, as {where} says",
            remedy="name the backbone that the file holds, or another file",
        )


def _without_weights(backbone: Backbone) -> BackboneModel:
    with torch.device("meta"):
        return create_backbone(backbone)


def _size(backbone: Backbone) -> dict[str, int]:
    model = _without_weights(backbone)
    size = {"channels": model.num_features, "layers": depth(model)}
    if isinstance(model, ResNet):
        return {**size, "tensors": len(model.state_dict())}
    heads = int(model.blocks[0].attn.num_heads)
    return {**size, "heads": heads, "px a patch": backbone.patch_size or 0}


def _said(size: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in size.items())


def _need(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise SizeError(f"no {name}")
    return weights[name]


def _grid(weights: Mapping[str, Tensor], tables: list[Tensor]) -> int:
    """Patches a side."""
    if "pos_embed" not in weights:
        if not tables:
            raise SizeError("no pos_embed, and no relative positions either")
        return grid_of(len(tables[0]))
    # A table without a class row has a square number of rows.
    rows = weights["pos_embed"].shape[1]
    for patches in (rows, rows - 1):
        if math.isqrt(patches) ** 2 == patches:
            return math.isqrt(patches)
    raise SizeError(f"pos_embed has {rows} rows, which are no square grid and a class token")


def _vit(weights: Mapping[str, Tensor], backbone: Backbone) -> Backbone:
    changes: dict[str, Any] = {"qkv_bias": "blocks.0.attn.qkv.bias" in weights}
    if "blocks.0.ls1.gamma" in weights:
        changes["init_values"] = 1e-5
    if "reg_token" in weights:
        changes |= {"reg_tokens": weights["reg_token"].shape[1], "no_embed_class": True}
    if "fc_norm.weight" in weights:
        changes["global_pool"] = "avg"
    arguments = {**backbone.model_args, **changes}
    # A gated MLP's second layer reads half of what the first one gives.
    gated = (
        weights["blocks.0.mlp.fc1.weight"].shape[0]
        != _need(weights, "blocks.0.mlp.fc2.weight").shape[1]
    )
    architecture = GATED if gated else backbone.architecture
    return backbone.model_copy(update={"architecture": architecture, "model_args": arguments})


def _beit(weights: Mapping[str, Tensor], backbone: Backbone) -> Backbone:
    shared = "rel_pos_bias.relative_position_bias_table" in weights
    own = "blocks.0.attn.relative_position_bias_table" in weights
    options = BEiTBackbone(
        layer_scale=0.1 if "blocks.0.gamma_1" in weights else 0.0,
        relative_positions=("both" if own else "shared") if shared else "block" if own else "none",
        absolute_positions="pos_embed" in weights,
    )
    beit = as_beit(backbone, options)
    changes = {
        "use_fc_norm": "fc_norm.weight" in weights,
        "qkv_bias": "blocks.0.attn.q_bias" in weights,
    }
    return beit.model_copy(update={"model_args": {**beit.model_args, **changes}})


def _resnet(weights: Mapping[str, Tensor]) -> Backbone:
    names = [re.match(r"layer(\d)\.(\d+)\.", name) for name in weights]
    blocks = {(int(match[1]), int(match[2])) for match in names if match}
    stages = tuple(sum(stage == index for stage, _ in blocks) for index in range(1, 5))
    known = _RESNETS.get((stages, "layer1.0.conv3.weight" in weights))
    if known is None:
        raise SizeError(f"a ResNet of {stages} blocks, which is none of the published ones")
    return Backbone(scale=known[1], architecture=known[0], image_size=224)
