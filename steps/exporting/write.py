"""Write a backbone in another library's form, and hold what was written to its outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor

from steps.command import UserError
from steps.exporting.card import Check
from steps.exporting.graph import OPSET, Graph, Run, Size, check_size, write_onnx, write_torchscript
from steps.exporting.transformers import write_transformers
from steps.models.backbones import (
    CONFIG,
    WEIGHTS,
    BackboneModel,
    image_size,
    load_backbone,
    save_weights,
)
from steps.models.features import frozen_features, image_feature

TARGETS = ("timm", "transformers", "onnx", "torchscript")
BOUND = 1e-4
"""Largest difference of an output that passes, relative to the largest output or to 1."""


@dataclass(frozen=True)
class Written:
    """An export in its folder, before it is checked."""

    run: Run
    """Normalised images (B, 3, H, W) to the class token and the mean token, each (B, D)."""
    form: str
    usage: str
    """Lines of Python that load it."""
    sizes: Sequence[tuple[int, int]]
    """Height and width of images to check it with."""


@dataclass(frozen=True)
class Exportable:
    """A backbone artifact with what every form needs of it."""

    path: Path
    model: BackboneModel
    mean: list[float]
    std: list[float]
    crop_fraction: float

    @classmethod
    def read(cls, artifact: Path) -> Exportable:
        """The backbone of an artifact.

        Raises:
            UserError: the folder is no backbone artifact.
        """
        model = load_backbone(artifact)
        config = _config(artifact)["pretrained_cfg"]
        return cls(artifact, model, config["mean"], config["std"], config["crop_pct"])

    def said(self, size: int) -> str:
        """The form in which images are to be given, in words."""
        short = round(size / self.crop_fraction)
        return (
            f"RGB in 0 to 1, resized (bicubic) to a short side of {short} px, the centre of "
            f"{size} x {size} px, less the mean {self.mean}, divided by the deviation {self.std}, "
            "each per channel."
        )

    def at(self, size: int) -> BackboneModel:
        """The backbone for images of a size: a BEiT's tables are resized when it is read."""
        if size == image_size(self.model) or not hasattr(self.model, "rel_pos_bias"):
            return self.model
        return load_backbone(self.path, img_size=size)


def write(backbone: Exportable, target: str, folder: Path, size: Size | None) -> Written:
    """Write a backbone into a folder.

    Args:
        backbone: what to write.
        target: one of TARGETS.
        folder: an existing folder.
        size: side of the images of a graph; None: the backbone's own.

    Raises:
        UserError: a package is missing, or the form does not hold the backbone.
    """
    where, own = str(backbone.path), image_size(backbone.model)
    if target == "timm":
        return _write_timm(backbone, folder)
    if target == "transformers":
        tokens = write_transformers(
            backbone.model,
            folder,
            mean=backbone.mean,
            std=backbone.std,
            crop_fraction=backbone.crop_fraction,
            where=where,
        )
        prefix = backbone.model.num_prefix_tokens

        def run(images: Tensor) -> tuple[Tensor, Tensor]:
            found = tokens(images)
            return found[:, 0], backbone.model.fc_norm(found[:, prefix:].mean(dim=1))

        return Written(run, "a transformers folder", _TRANSFORMERS, [(own, own)])
    wanted: Size = own if size is None else size
    check_size(backbone.model, wanted, where)
    traced = own if wanted == "free" else wanted
    graph = Graph(backbone.at(traced), wanted).eval()
    sizes = [(traced, traced)]
    if wanted == "free":
        patch = (
            32
            if not hasattr(backbone.model, "patch_embed")
            else (backbone.model.patch_embed.patch_size[0])
        )
        sizes += [(own + 2 * patch, own + patch), (2 * own, 2 * own)]
    if target == "onnx":
        path = folder / "model.onnx"
        run_graph = write_onnx(graph, path, traced, wanted == "free")
        form = f"ONNX, opset {OPSET}, {_open(wanted)}"
        return Written(run_graph, form, _ONNX, sizes)
    run_graph = write_torchscript(graph, folder / "model.pt", traced)
    return Written(run_graph, f"TorchScript, {_open(wanted)}", _TORCHSCRIPT, sizes)


@torch.inference_mode()
def check(
    backbone: Exportable, written: Written, images: Callable[[tuple[int, int]], Tensor], name: str
) -> Check:
    """Hold outputs of an export to those of the backbone, at each size.

    Args:
        backbone: the source.
        written: the export.
        images: normalised images (B, 3, H, W) of a height and width.
        name: which images they are, for the card.

    Raises:
        UserError: an output differs by more than the bound.
    """
    worst = largest = 0.0
    for size in written.sizes:
        inputs = images(size)
        model = backbone.at(size[0])
        wanted = frozen_features(model, inputs, ("cls", "mean"))
        for found, pooling in zip(written.run(inputs), ("cls", "mean"), strict=True):
            # NaN compares false with any bound: it must not pass for a maximum.
            difference = (found - wanted[pooling]).abs().max().nan_to_num(nan=torch.inf)
            worst = max(worst, float(difference))
            largest = max(largest, float(wanted[pooling].abs().max()))
    bound = BOUND * max(1.0, largest)
    if not worst <= bound:
        raise UserError(
            str(backbone.path),
            f"outputs of the export differ from the backbone's by {worst:.2g}",
            allowed=f"{bound:.2g}",
            remedy="nothing was written; report it with the versions of the libraries",
        )
    return Check(name, written.sizes, worst, bound)


def _write_timm(backbone: Exportable, folder: Path) -> Written:
    """``config.json`` and ``model.safetensors``, as timm reads them without any code of ours."""
    config = _config(backbone.path)
    architecture = config["architecture"]
    if not timm.models.model_entrypoint(architecture).__module__.startswith("timm."):
        raise UserError(
            str(backbone.path),
            f"the architecture {architecture}, which timm itself lacks",
            allowed="an architecture of timm",
            remedy="export --to onnx or torchscript",
        )
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_weights(backbone.model.state_dict(), folder / WEIGHTS)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        found = model.forward_features(images)
        if found.ndim == 4:
            average = found.mean(dim=(2, 3))
            return average, average
        mean = model.fc_norm(found[:, model.num_prefix_tokens :].mean(dim=1))
        return image_feature(model, found), mean

    own = image_size(backbone.model)
    return Written(run, "a timm folder", _TIMM, [(own, own)])


def _config(artifact: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((artifact / CONFIG).read_bytes()))


def _open(size: Size) -> str:
    if size == "free":
        return "any number of images of any height and width in whole patches"
    return f"any number of images of {size} x {size} px"


_TIMM = """import timm
model = timm.create_model("local-dir:DIR", pretrained=True, num_classes=0).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
features = model(transform(image).unsqueeze(0))"""
_TRANSFORMERS = """from transformers import AutoImageProcessor, AutoModel
processor = AutoImageProcessor.from_pretrained("DIR")
model = AutoModel.from_pretrained("DIR").eval()
features = model(**processor(image, return_tensors="pt")).last_hidden_state[:, 0]"""
_ONNX = """import onnxruntime
session = onnxruntime.InferenceSession("DIR/model.onnx")
class_token, mean_token = session.run(None, {"images": images})  # (B, 3, H, W) float32"""
_TORCHSCRIPT = """import torch
model = torch.jit.load("DIR/model.pt")
class_token, mean_token = model(images)  # (B, 3, H, W) float32"""
