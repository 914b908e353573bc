"""Read the backbone of an official file: every name accounted for, every shape checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from steps.command import UserError
from steps.models.backbones import BackboneModel, create_backbone, depth, is_resnet
from steps.models.beit import as_beit
from steps.models.dinov2_vit import GATED, mlp_ratio
from steps.models.positions import (
    WITH_OFFSET,
    Resizing,
    grid_of,
    resize_relative_table,
    resize_table,
)
from steps.models.teacher import CENTER
from steps.official.files import Shell, check_fit, check_tensors, read_file, tensors_in
from steps.official.formats import FORMATS, Found, UnknownNamesError, find
from steps.params.backbone import Backbone, BEiTBackbone

# --- The params of a backbone from the shapes of its weights, so that no file needs a description


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
"""timm's architecture and the name in tables, by blocks per stage and bottlenecks."""


class SizeError(ValueError):
    """The shapes are of no backbone that is known; the message says why."""


class UnknownHeadsError(SizeError):
    """The file does not tell the number of attention heads."""


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
    """Name of a backbone of this size in ``params/backbones/``, such as vit_b16."""
    if backbone.is_resnet:
        return backbone.architecture
    return f"{backbone.scale.lower().replace('-', '_')}{backbone.patch_size}"


def heads_of(named: Backbone) -> int | None:
    """The attention heads of a backbone that params describe; a ResNet has none."""
    model = _without_weights(named)
    return None if is_resnet(model) else int(model.blocks[0].attn.num_heads)


def check_size(source: Path | str, found: Backbone, named: Backbone, where: str) -> None:
    """Hold a file's backbone to the size that params describe.

    Args:
        source: the file, or words for where it comes from.
        found: what is in it.
        named: what it should be, less its method's own (layer scale, relative positions).
        where: the params file.

    Raises:
        UserError: width, depth, heads or patches differ.
    """
    ours, theirs = _size(named), _size(found)
    if ours != theirs:
        raise UserError(
            str(source),
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
    if is_resnet(model):
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


_PLAIN = Resizing(offset=0.0)
_RESIZING = {"dino": WITH_OFFSET, "ibot": WITH_OFFSET, "dinov2": WITH_OFFSET}
"""Resizing of a method's position table; the others use ``_PLAIN``."""
_REGISTERS = Resizing(offset=0.0, antialias=True)
"""DINOv2 with registers."""


@dataclass(frozen=True)
class Imported:
    """A backbone out of an official file."""

    model: BackboneModel
    """In eval mode and float32."""
    backbone: Backbone
    """The params that it was created from."""
    heads: dict[str, Tensor]
    """Weights of its method that are kept beside it: a text tower, prototypes, a classifier."""
    left_out: list[str]
    """Other contents of the file."""


def read_backbone(
    path: Path,
    kind: str,
    *,
    network: str | None = None,
    heads: int | None = None,
    image_size: int | None = None,
) -> Imported:
    """The backbone that a file of one of ``FORMATS`` holds.

    Args:
        path: the file.
        kind: a key of ``FORMATS``.
        network: which one, of a file with two; None: that which evaluations take.
        heads: attention heads, where the width does not say.
        image_size: side in pixels of the images to build it for, its positions resized as its
            method does; None: as it was trained.

    Raises:
        UserError: the file cannot be read safely, holds no such backbone, or its names or shapes
            are not those of one.
    """
    file_format = FORMATS[kind]
    network = network or next(iter(file_format.networks))
    content = read_file(path)
    if isinstance(content, Shell):
        content = dict(tensors_in(content))
    if not isinstance(content, Mapping):
        raise UserError(str(path), f"a {type(content).__name__}", allowed="tensors by name")
    for table in (content, *content.values()):
        check_tensors(path, table)
    try:
        found = find(content, file_format, network)
    except UnknownNamesError as error:
        raise UserError(str(path), f"tensors of no part of {kind}: {error}") from error
    if found is None:
        entries = ", ".join(sorted(map(str, content))[:8])
        raise UserError(
            str(path),
            f"no {network} network of {kind} in it; it begins with {entries}",
            remedy="correct --format or --network",
        )
    weights = _in_timms_layout(found.backbone)
    backbone = _sizes(path, weights, heads, file_format.width_to_heads)
    resizing = _REGISTERS if "reg_token" in weights else _RESIZING.get(kind, _PLAIN)
    if image_size is not None:
        backbone, weights = _resized(path, backbone, weights, image_size, resizing)
    model = create_backbone(backbone)
    check_fit(str(path), model.state_dict(), weights, remedy="correct --format, or the file")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    if isinstance(model, VisionTransformer):
        model.resizing = resizing
    kept = {name: tensor.float() for name, tensor in _heads(content, kind, network, found).items()}
    return Imported(model.eval(), backbone, kept, found.left_out)


def _in_timms_layout(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With registers, timm's class token has its position added, and the table no row for it."""
    ours = dict(weights)
    if "reg_token" in ours and "pos_embed" in ours:
        table = ours["pos_embed"]
        ours["cls_token"] = ours["cls_token"] + table[:, :1]
        ours["pos_embed"] = table[:, 1:].clone()
    return ours


def _sizes(
    path: Path,
    weights: Mapping[str, Tensor],
    heads: int | None,
    width_to_heads: Mapping[int, int],
) -> Backbone:
    try:
        return backbone_of(weights, heads, width_to_heads)
    except UnknownHeadsError as error:
        raise UserError(str(path), str(error), remedy="give --heads N, a divisor") from error
    except (SizeError, ValueError) as error:
        raise UserError(str(path), f"not the weights of a known backbone: {error}") from error


def _resized(
    path: Path,
    backbone: Backbone,
    weights: Mapping[str, Tensor],
    image_size: int,
    resizing: Resizing,
) -> tuple[Backbone, dict[str, Tensor]]:
    """Params and weights for images of another size."""
    patch = backbone.patch_size
    if patch is None or image_size % patch:
        raise UserError(
            f"--image-size {image_size}",
            "it has no patches" if patch is None else f"patches of {path} have {patch} px",
            allowed="no size" if patch is None else f"a multiple of {patch}",
        )
    grid, ours = image_size // patch, dict(weights)
    for name, tensor in weights.items():
        if name == "pos_embed":
            ours[name] = resize_table(
                tensor, (grid, grid), tensor.shape[1] - backbone.patches, resizing
            )
        elif name.endswith("relative_position_bias_table"):
            ours[name] = resize_relative_table(tensor, grid)
    # A copy is not validated: params files may not name a BEiT themselves.
    return backbone.model_copy(update={"image_size": image_size}), ours


def _heads(content: Mapping[str, Any], kind: str, network: str, found: Found) -> dict[str, Tensor]:
    """Heads to keep, with the centre of a teacher's prototypes."""
    loss = content.get(f"{kind}_loss")
    if network != "teacher" or not isinstance(loss, Mapping):
        return found.heads
    center = loss.get("center")
    return {**found.heads, CENTER: center} if isinstance(center, torch.Tensor) else found.heads
