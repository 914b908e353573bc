"""Backbones: created from params, written as and read from ``timm.create_model("local-dir:…")``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import timm
from safetensors.torch import save_file
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.params.backbone import Backbone

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
HEADS = "heads.safetensors"

Transformer: TypeAlias = VisionTransformer | Beit
"""A backbone of tokens: what ``steps.models.tokens`` embeds and encodes with."""


def create_backbone(backbone: Backbone) -> Transformer:
    """A vision transformer without a head, initialised from torch's global generator.

    Raises:
        UserError: timm does not know the architecture, or it does not take the arguments.
    """
    try:
        model = timm.create_model(
            backbone.architecture,
            num_classes=0,
            img_size=backbone.image_size,
            patch_size=backbone.patch_size,
            **backbone.model_args,
        )
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(
            f"backbone {backbone.architecture}",
            f"timm cannot build it: {error}",
            remedy="correct architecture or model_args in params/backbones/",
        ) from error
    if not isinstance(model, Transformer):
        raise UserError(
            f"backbone {backbone.architecture}",
            f"a {type(model).__name__}",
            allowed="timm's VisionTransformer",
        )
    return model


def save_backbone(
    model: Transformer,
    backbone: Backbone,
    folder: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    heads: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors`` as timm's ``local-dir:`` source reads them.

    Args:
        model: the weights.
        backbone: what the model was created from.
        folder: an existing folder.
        mean, std: per channel, of pixels in 0 to 1; the input that the weights expect.
        heads: weights that belong to it and are not part of it, for a file of their own.
    """
    size = image_size(model)
    config = {
        "architecture": backbone.architecture,
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": {
            "img_size": size,
            "patch_size": backbone.patch_size,
            **backbone.model_args,
        },
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "num_classes": 0,
            "mean": list(mean),
            "std": list(std),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    save_weights(model.state_dict(), folder / WEIGHTS)
    if heads:
        save_weights(heads, folder / HEADS)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(whole, path, metadata={"format": "pt"})


def load_backbone(artifact: Path, **overrides: Any) -> Transformer:
    """The vision transformer of a backbone artifact, on the CPU, in float32 and eval mode.

    Args:
        artifact: a folder that ``steps.pretrain`` published.
        overrides: arguments of the timm model that replace those of the artifact.

    Raises:
        UserError: the folder holds no backbone artifact.
    """
    read_manifest(artifact, "pretrain")
    model = timm.create_model(f"local-dir:{artifact}", pretrained=True, num_classes=0, **overrides)
    return cast(Transformer, model.float().eval())


def normalisation(artifact: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel (of pixels in 0 to 1) that a backbone expects."""
    config = json.loads((artifact / CONFIG).read_text())["pretrained_cfg"]
    return config["mean"], config["std"]


def image_size(model: Transformer) -> int:
    """The side in pixels of the images that a model was built for."""
    return int(model.patch_embed.img_size[0])
