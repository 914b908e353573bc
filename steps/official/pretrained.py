"""Backbones of timm and of transformers, with params that follow from what they are made of."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from steps.command import UserError
from steps.models.backbones import (
    BackboneModel,
    create_backbone,
    image_size,
    is_resnet,
    norm_eps,
    set_norm_eps,
)
from steps.models.positions import Resizing
from steps.models.tokens import embed, encode
from steps.official.fit import fitted
from steps.official.hub import hub_backbone, hub_kind, is_hub_folder
from steps.official.read import PLAIN, SCALES, Imported, check_size
from steps.official.weights import (
    Weights,
    check_timm_name,
    downloaded,
    is_timm_folder,
    of_file,
    of_hub_folder,
    of_timm_folder,
)
from steps.params.backbone import Backbone
from steps.params.views import Normalise

METHODS = {
    "vit_mae": "mae",
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "beit": "beit",
    "clip": "clip",
    "clip_vision_model": "clip",
    "siglip": "siglip",
    "siglip_vision_model": "siglip",
}
"""Method of a transformers folder's training by ``model_type``, where that tells it."""
_TIMM = Resizing(offset=0.0, antialias=True)
"""timm's own resizing of position tables."""
_AGAIN = "get the weights again, or name the model that they belong to"


@dataclass(frozen=True)
class Pretrained:
    """A backbone of timm or transformers."""

    imported: Imported
    weights: Weights
    normalise: Normalise | None
    """Normalisation of the images that it expects; None where nothing says."""
    method: str | None
    """Method of its training; None where nothing says."""


def read_transformers(
    folder: Path, named: Backbone | None, size: int | None, where: str
) -> Pretrained:
    """The backbone of a transformers folder.

    Args:
        folder: as ``save_pretrained`` writes it.
        named: params that it must match in size; None: any.
        size: side in pixels of the images to build it for; None: that of ``named``, else its own.
        where: file of ``named``, for errors.

    Raises:
        UserError: it is no such folder, of another architecture or size, or has tensors that are
            missing or left over.
    """
    if not is_hub_folder(folder):
        raise UserError(
            str(folder),
            "no folder of transformers" if folder.exists() else "no such folder",
            allowed="a folder whose config.json has a model_type",
            remedy="write it with save_pretrained, or correct the path",
        )
    backbone = _sized(hub_backbone(folder), named, size, str(folder), where)
    model = create_backbone(backbone)
    weights = of_hub_folder(folder, model)
    return _loaded(model, backbone, weights, METHODS.get(hub_kind(folder)))


def read_timm(
    name: str | None, path: Path | None, named: Backbone | None, size: int | None, where: str
) -> Pretrained:
    """The backbone of a timm model.

    Args:
        name: of the model, such as ``vit_small_patch16_dinov3.lvd1689m``; None: as a folder or
            ``named`` says.
        path: a file of its weights, or a folder as timm writes it; None: timm downloads it.
        named, size, where: as for ``read_transformers``. Of the same architecture, ``named`` also
            gives the arguments of the model.

    Raises:
        UserError: it cannot be read or downloaded, timm does not know it, or it is of another
            architecture or size, or has tensors that are missing or left over.
    """
    if path is None:
        if name is None:
            raise UserError(
                "--format timm",
                "neither --model nor a checkpoint",
                remedy="give --model NAME, --checkpoint PATH, or both",
            )
        weights = downloaded(
            name, "--model", "give a file of its weights: --checkpoint PATH (checkpoint: in params)"
        )
    elif is_timm_folder(path):
        weights = of_timm_folder(path)
    elif path.is_dir():
        raise UserError(
            str(path),
            "no folder of timm: its config.json names no architecture, or it is an artifact",
            allowed="a file of a timm model's weights, or a folder as timm writes it for the hub",
            remedy="of a transformers folder: --format transformers (transformers: in params)",
        )
    else:
        weights = of_file(path)
    architecture = _architecture(name, weights, named)
    if named is not None and named.architecture == architecture:
        backbone = named
    else:
        backbone = _of_architecture(architecture, weights.model_args)
    backbone = _sized(backbone, named, size, weights.source, where)
    model = create_backbone(backbone)
    weights = dataclasses.replace(
        weights,
        resizing=_TIMM,
        normalisation=weights.normalisation or _usual_normalisation(name),
        norm_eps=None,
    )
    return _loaded(model, backbone, weights, None)


def _architecture(name: str | None, weights: Weights, named: Backbone | None) -> str:
    """The timm architecture of weights.

    Raises:
        UserError: nothing tells it, or two sources tell two.
    """
    plain = None
    if name is not None and not name.startswith(("hf-hub:", "hf_hub:")):
        plain = name.partition(".")[0]
        if "." in name or not timm.is_model(plain):
            check_timm_name(name, "--model")
    if plain is not None and weights.architecture not in (plain, None):
        raise UserError(
            weights.source,
            f"architecture {weights.architecture}",
            allowed=f"{plain}, as --model says",
            remedy=_AGAIN,
        )
    found = plain or weights.architecture or (None if named is None else named.architecture)
    if found is None:
        raise UserError(
            weights.source,
            "no word on its architecture",
            remedy="give --model NAME, such as vit_small_patch16_224",
        )
    if not timm.is_model(found):
        raise UserError(weights.source, f"architecture {found}, which timm does not know")
    return found


def _of_architecture(architecture: str, arguments: Mapping[str, Any]) -> Backbone:
    """The params of a timm architecture as it is by default.

    Raises:
        UserError: it is no backbone that tasks here read.
    """
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=0, **arguments)
    if not isinstance(model, BackboneModel):
        raise UserError(
            f"--model {architecture}",
            f"a {type(model).__name__}",
            allowed="a vision transformer, a BEiT, an EVA or a ResNet of timm",
            remedy="name another model",
        )
    if is_resnet(model):
        side = int(model.pretrained_cfg["input_size"][-1])
        scale = architecture.replace("resnet", "ResNet-")
        return Backbone(
            scale=scale, architecture=architecture, image_size=side, model_args=dict(arguments)
        )
    patch = int(model.patch_embed.patch_size[0])
    side = (image_size(model) // patch) * patch
    width, depth = model.embed_dim, len(model.blocks)
    plain = Backbone(
        scale=SCALES.get((width, depth), f"ViT-{width}x{depth}"),
        architecture=PLAIN,
        image_size=side,
        patch_size=patch,
    )
    kept = {key: value for key, value in arguments.items() if key not in ("img_size", "patch_size")}
    # A copy is not validated: params files may not name a BEiT themselves.
    return plain.model_copy(update={"architecture": architecture, "model_args": kept})


def _sized(
    backbone: Backbone, named: Backbone | None, size: int | None, source: str, where: str
) -> Backbone:
    """The backbone for images of another size, after it was held to the params that were named."""
    if named is not None:
        check_size(source, backbone, named, where)
        size = size or named.image_size
    if size is None or size == backbone.image_size:
        return backbone
    if backbone.patch_size is not None and size % backbone.patch_size:
        raise UserError(
            f"--image-size {size}",
            f"patches of {source} have {backbone.patch_size} px",
            allowed=f"a multiple of {backbone.patch_size}",
        )
    return backbone.model_copy(update={"image_size": size})


def _loaded(
    model: BackboneModel, backbone: Backbone, weights: Weights, method: str | None
) -> Pretrained:
    """The weights in the model, every tensor accounted for."""
    if weights.norm_eps is not None and weights.norm_eps != norm_eps(model):
        set_norm_eps(model, weights.norm_eps)
    taken = fitted(weights, model, "its own description says", _AGAIN)
    model.load_state_dict(taken.tensors)
    model.eval()
    if not is_resnet(model):
        model.resizing = weights.resizing
    _check_whole(model, weights.source)
    for change in taken.changes:
        logging.info("%s: %s", weights.source, change)
    images = weights.normalisation
    normalise = None if images is None else Normalise(mean=images[0], std=images[1])
    found = Imported(model, backbone, {}, list(taken.left_out))
    return Pretrained(found, weights, normalise, method)


@torch.inference_mode()
def _check_whole(model: BackboneModel, source: str) -> None:
    """Refuse a model with parts that the tasks here do not run, such as a distillation token.

    Raises:
        UserError: the tokens of an image differ from those of timm's own forward pass.
    """
    if is_resnet(model):
        return
    side = image_size(model)
    images = torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side)
    if (channels := model.patch_embed.proj.in_channels) != 3:
        images = images[:, :1].expand(-1, channels, -1, -1)
    theirs = model.forward_features(images)
    try:
        ours = model.norm(encode(model, embed(model, images)))
    except (RuntimeError, TypeError, AttributeError):
        ours = theirs[:, :0]
    bound = 1e-4 * max(1.0, float(theirs.abs().max()))
    if ours.shape != theirs.shape or not float((ours - theirs).abs().max()) <= bound:
        raise UserError(
            source,
            f"a {type(model).__name__} with parts that tasks here do not run",
            allowed="a transformer of patches, class token and registers",
            remedy="take another model",
        )


def _usual_normalisation(name: str | None) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation that timm has for a model."""
    config = (
        None if name is None else timm.models.get_pretrained_cfg(name, allow_unregistered=False)
    )
    return None if config is None else (list(config.mean), list(config.std))
