"""Read the backbone of an official file: every name accounted for, every shape checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from steps.command import UserError
from steps.models.backbones import BackboneModel, create_backbone
from steps.models.official.files import Shell, check_tensors, read_file, tensors_in
from steps.models.official.layouts import LAYOUTS, Found, UnknownNamesError, find
from steps.models.official.sizes import SizeError, UnknownHeadsError, backbone_of
from steps.models.positions import WITH_OFFSET, Resizing, resize_table
from steps.models.relative_positions import resize_relative_table
from steps.models.teacher import CENTER
from steps.params.backbone import Backbone

_PLAIN = Resizing(offset=0.0)
_RESIZING = {"dino": WITH_OFFSET, "ibot": WITH_OFFSET, "dinov2": WITH_OFFSET}
"""What a method does to its position table; the others resize it to a size, plainly."""
_SHOWN = 8
"""Tensors that an error names."""
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
    """What the file holds besides."""


def read_backbone(
    path: Path,
    kind: str,
    *,
    network: str | None = None,
    heads: int | None = None,
    image_size: int | None = None,
) -> Imported:
    """The backbone that a file of one of ``LAYOUTS`` holds.

    Args:
        path: the file.
        kind: a key of ``LAYOUTS``.
        network: which one, of a file with two; None: that which evaluations take.
        heads: attention heads, where the width does not say.
        image_size: side in pixels of the images to build it for, its positions resized as its
            method does; None: as it was trained.

    Raises:
        UserError: the file cannot be read safely, holds no such backbone, or its names or shapes
            are not those of one.
    """
    layout = LAYOUTS[kind]
    network = network or next(iter(layout.networks))
    content = read_file(path)
    if isinstance(content, Shell):
        content = dict(tensors_in(content))
    if not isinstance(content, Mapping):
        raise UserError(str(path), f"a {type(content).__name__}", allowed="tensors by name")
    for table in (content, *content.values()):
        check_tensors(path, table)
    try:
        found = find(content, layout, network)
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
    backbone = _sizes(path, weights, heads, layout.width_to_heads)
    resizing = _REGISTERS if "reg_token" in weights else _RESIZING.get(kind, _PLAIN)
    if image_size is not None:
        backbone, weights = _resized(path, backbone, weights, image_size, resizing)
    model = create_backbone(backbone)
    _check(path, model.state_dict(), weights)
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


def _check(path: Path, ours: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise unless names and shapes are the same, and weights are no whole numbers."""
    wrong = [f"no {name}" for name in ours if name not in found]
    wrong += [f"unknown {name}" for name in found if name not in ours]
    wrong += [
        f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in ours.items()
        if name in found and found[name].shape != tensor.shape
    ]
    wrong += [
        f"{name} is {str(found[name].dtype).removeprefix('torch.')}, not floating"
        for name, tensor in ours.items()
        if name in found and tensor.is_floating_point() > found[name].is_floating_point()
    ]
    if wrong:
        raise UserError(
            str(path),
            f"{len(wrong)} tensors of the backbone do not fit: {'; '.join(wrong[:_SHOWN])}",
            remedy="correct --format, or the file",
        )


def _heads(content: Mapping[str, Any], kind: str, network: str, found: Found) -> dict[str, Tensor]:
    """What is kept, with the centre of a teacher's prototypes."""
    loss = content.get(f"{kind}_loss")
    if network != "teacher" or not isinstance(loss, Mapping):
        return found.heads
    center = loss.get("center")
    return {**found.heads, CENTER: center} if isinstance(center, torch.Tensor) else found.heads
