"""A backbone as one graph that needs no code of ours: ONNX and TorchScript.

Inputs are normalised images, outputs the class token and the mean token after the final norm, as
``steps.embed`` gives them. At a free size the position table is resized inside the graph.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, cast

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from steps.command import UserError
from steps.exporting.transformers import missing_package
from steps.models.backbones import BackboneModel, own_resizing
from steps.models.features import image_feature
from steps.models.positions import Resizing, resize_table
from steps.models.tokens import prefix_tokens, rotary

OPSET = 18
"""Opset of ONNX: the first whose Resize has an antialias, which other tools than ours may want."""
OUTPUTS = ("class_token", "mean_token")
Size = int | Literal["free"]
Run = Callable[[Tensor], tuple[Tensor, Tensor]]


class Graph(nn.Module):
    """(B, 3, H, W) to the class token and the mean token, each (B, D).

    Args:
        backbone: in eval mode, on the CPU.
        size: the side of all images in pixels; "free": any height and width in whole patches.
    """

    def __init__(self, backbone: BackboneModel, size: Size) -> None:
        super().__init__()
        self.backbone = backbone
        self.table: Tensor | None = None
        self.free = size == "free"
        if isinstance(backbone, VisionTransformer | Eva) and backbone.pos_embed is not None:
            self.resizing = own_resizing(backbone)
            self.rows = backbone.pos_embed.shape[1] - backbone.patch_embed.num_patches
            self.side = int(backbone.patch_embed.grid_size[0])
            table = backbone.pos_embed.detach()
            if size != "free":
                grid = size // backbone.patch_embed.patch_size[0]
                table = resize_table(table, (grid, grid), self.rows, self.resizing)
            del self.table
            self.register_buffer("table", table.clone())
        self.rotary: list[Tensor | None] = []
        if isinstance(backbone, Eva) and size != "free":
            grid = size // backbone.patch_embed.patch_size[0]
            self.rotary = [
                None if table is None else table.detach().clone()
                for table in rotary(backbone, (grid, grid))
            ]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        backbone = self.backbone
        if isinstance(backbone, ResNet):
            average = backbone.forward_features(images).mean(dim=(2, 3))
            return average, average.clone()
        if isinstance(backbone, VisionTransformer):
            tokens_BND = backbone.norm(backbone.blocks(backbone.norm_pre(self._embed(images))))
        elif isinstance(backbone, Eva):
            tokens_BND = backbone.norm_pre(self._embed(images))
            for block, rope in zip(backbone.blocks, self.rotary, strict=True):
                tokens_BND = block(tokens_BND, rope=rope)
            tokens_BND = backbone.norm(tokens_BND)
        else:
            tokens_BND = backbone.forward_features(images)
        mean = backbone.fc_norm(tokens_BND[:, backbone.num_prefix_tokens :].mean(dim=1))
        first = image_feature(backbone, tokens_BND)
        # Two outputs of a graph are two tensors.
        return first, mean.clone() if backbone.cls_token is None else mean

    def _embed(self, images: Tensor) -> Tensor:
        """``steps.models.tokens.embed`` of images whose number, and size if free, are open."""
        vit = cast(VisionTransformer, self.backbone)
        patches = vit.patch_embed.proj(images)
        prefix = prefix_tokens(vit)
        table = self.table
        if table is None:
            tokens = patches.flatten(2).transpose(1, 2)
            return torch.cat([prefix.expand(images.shape[0], -1, -1), tokens], dim=1)
        own, rest = prefix[:, : self.rows], prefix[:, self.rows :]
        positions = table[:, self.rows :]
        if self.free:
            down, across = self._axes(patches.shape[2], patches.shape[3])
            grid_HWD = positions[0].unflatten(0, (self.side, self.side))
            resized = torch.einsum("rh,hwd,cw->rcd", down, grid_HWD, across)
            positions = resized.flatten(0, 1).unsqueeze(0)
        prefix = torch.cat([own + table[:, : self.rows], rest], dim=1)
        tokens = patches.flatten(2).transpose(1, 2) + positions
        return torch.cat([prefix.expand(images.shape[0], -1, -1), tokens], dim=1)

    def _axes(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Interpolation along both axes; a grid of the table's own size takes it as it is."""
        sizes = torch.stack([torch.scalar_tensor(size) for size in (rows, columns)])
        own = (sizes == self.side).all()
        index = torch.arange(self.side)
        both = []
        for wanted in (rows, columns):
            same = (torch.arange(wanted).unsqueeze(1) == index).float()
            both.append(torch.where(own, same, axis(self.side, wanted, self.resizing)))
        return both[0], both[1]


def axis(side: int, wanted: Any, resizing: Resizing) -> Tensor:
    """Bicubic interpolation along one axis, (wanted, side), of plain operations on ``wanted``.

    The weights are torch's: Keys' cubic of a = -0.75, with edges repeated; with antialiasing one of
    a = -0.5 that is widened where the axis shrinks, and cut at the edges.

    Args:
        side: rows of the table.
        wanted: rows to give, which may be open in a graph.
        resizing: how coordinates follow from sizes.
    """
    at = torch.arange(wanted, dtype=torch.float32).unsqueeze(1)
    index = torch.arange(side, dtype=torch.float32)
    step = side / (wanted + resizing.offset)
    centre = (at + 0.5) * step
    if resizing.antialias:
        width = step if isinstance(step, Tensor) else torch.as_tensor(step)
        weights = _cubic((index + 0.5 - centre) / width.clamp(min=1.0), -0.5)
        return weights / weights.sum(dim=1, keepdim=True)
    place = centre - 0.5
    first = place.floor()
    weights = torch.zeros_like(place * index)
    for tap in (-1.0, 0.0, 1.0, 2.0):
        source = (first + tap).clamp(0, side - 1)
        weights = weights + _cubic(place - first - tap, -0.75) * (index == source)
    return weights


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel (1981), zero from a distance of 2."""
    x = distance.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def check_size(backbone: BackboneModel, size: Size, where: str) -> None:
    """Refuse a size that a graph of the backbone cannot take.

    Raises:
        UserError: naming what it can.
    """
    if isinstance(backbone, ResNet):
        return
    patch = backbone.patch_embed.patch_size[0]
    if size == "free" and isinstance(backbone, Beit | Eva):
        kind = "a BEiT, whose relative" if isinstance(backbone, Beit) else "an EVA, whose rotary"
        raise UserError(
            f"--size {size}",
            f"{where} is {kind} positions belong to one grid",
            allowed=f"a multiple of {patch}",
        )
    if size != "free" and size % patch:
        raise UserError(
            f"--size {size}",
            f"does not divide into the {patch} px patches of {where}",
            allowed=f"a multiple of {patch}, or free",
        )


def write_onnx(graph: Graph, path: Path, size: int, free: bool) -> Run:
    """Write an ONNX file, and read it with onnxruntime.

    Args:
        graph: the backbone.
        path: the file.
        size: side of the images that the graph is written with.
        free: height and width stay open; the number of images always does.

    Raises:
        UserError: a package is missing.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch writes by it
    except ImportError as error:
        raise missing_package("--to onnx", "onnx", error) from error
    batch = torch.export.Dim("images", min=1)
    dynamic: dict[int, Any] = {0: batch}
    if free:
        dynamic |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)  # a line for each constant they fold
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (torch.zeros(2, 3, size, size),),
            str(path),
            input_names=["images"],
            output_names=list(OUTPUTS),
            dynamic_shapes={"images": dynamic},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        first, mean = session.run(list(OUTPUTS), {"images": images.numpy()})
        return torch.from_numpy(first), torch.from_numpy(mean)

    return run


def write_torchscript(graph: Graph, path: Path, size: int) -> Run:
    """Write a TorchScript file, and read it."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.jit.trace(graph, torch.zeros(2, 3, size, size)).save(str(path))
    return cast(Run, torch.jit.load(str(path)))
