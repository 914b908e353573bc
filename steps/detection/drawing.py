"""Detections on images: what there is beside what was found."""

from __future__ import annotations

import colorsys
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from steps.detection.dataset import Detections, Targets
from steps.params.detection import Detection

_WIDTH = 420
"""Pixels a picture is wide on the sheet, about."""
_GAP = 8
_LETTERS = 14
_COVER = 0.45
_PAPER = (255, 255, 255)
_INK = (20, 20, 20)
_GOLDEN = 0.618034


@dataclass(frozen=True)
class Objects:
    """Objects of an image; ``boxes`` (N, 4) are corners, ``masks`` (N, H, W) or None."""

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_] | None
    names: list[str]
    """Text at each."""
    scores: npt.NDArray[np.float32] | None = None
    """(N,) of detections."""


def draw(model: nn.Module, params: Detection, data: Path) -> bytes:
    """A sheet (PNG) of validation images, one per row: ground truth and detections.

    The images are evenly spaced among those with objects.
    """
    masks = bool(cast(Any, model).roi_head.with_mask)
    views = Detections(
        data, "val", image_size=params.image_size, short_side=params.short_side, masks=masks
    )
    classes = views.metainfo["classes"]
    seen = [index for index, (_, _, targets) in enumerate(views.rows) if json.loads(targets)]
    count = min(params.pictures.images, len(seen))
    chosen = [seen[round(index)] for index in np.linspace(0, len(seen) - 1, count)]
    rows = []
    for index in chosen:
        row, _, targets = views.rows[index]
        image = views.images.image(row).convert("RGB")
        objects = Targets.from_annotations(
            json.loads(targets), image.height, image.width, masks=masks
        )
        there = _truth(objects, classes)
        found = detect(model, views[index], classes, params.pictures.min_score)
        rows.append([overlay(image, there), overlay(image, found)])
    heads = ("ground truth", f"found, score at least {params.pictures.min_score:g}")
    file = io.BytesIO()
    _sheet(rows, heads).save(file, "PNG")
    return file.getvalue()


@torch.no_grad()
def detect(
    model: nn.Module, sample: dict[str, Any], classes: tuple[str, ...], least: float
) -> Objects:
    """Detections in an image, in its own pixels, with scores of at least ``least``."""
    model.eval()
    (result,) = cast(Any, model).test_step({key: [value] for key, value in sample.items()})
    found = result.pred_instances
    found = found[found.scores >= least].cpu()
    labels = found.labels.numpy()
    names = [f"{classes[k]} {score:.2f}" for k, score in zip(labels, found.scores, strict=True)]
    masks = found.masks.numpy().astype(bool) if "masks" in found else None
    return Objects(found.bboxes.numpy(), labels, masks, names, found.scores.numpy())


def _truth(targets: Targets, classes: tuple[str, ...]) -> Objects:
    names = [
        classes[label] + (" (crowd)" if crowd else "")
        for label, crowd in zip(targets.labels, targets.crowds, strict=True)
    ]
    masks = None if targets.masks is None else targets.masks.masks.astype(bool)
    return Objects(targets.boxes, targets.labels, masks, names)


def overlay(image: Image.Image, objects: Objects) -> Image.Image:
    """The image enlarged, masks in their classes' colours, boxes and names drawn on it."""
    scale = max(_WIDTH / image.width, 1.0)
    size = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32).copy()
    masks = () if objects.masks is None else objects.masks
    for label, mask in zip(objects.labels, masks, strict=objects.masks is not None):
        large = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        pixels[large] += _COVER * (np.array(colour(int(label)), np.float32) - pixels[large])
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for label, box in zip(objects.labels, objects.boxes, strict=True):
        pen.rectangle((box * scale).tolist(), outline=colour(int(label)), width=2)
    # Names come last: no box is to cross them.
    for label, box, name in zip(objects.labels, objects.boxes, objects.names, strict=True):
        _write(pen, size, (float(box[0]) * scale, float(box[1]) * scale), name, colour(int(label)))
    return picture


def _write(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: tuple[float, float],
    name: str,
    paper: tuple[int, int, int],
) -> None:
    """A name on its class's colour, above the corner of its box where it fits."""
    font = ImageFont.load_default(_LETTERS)
    _, top, right, bottom = font.getbbox(name)
    width, height = right + 6, bottom - top + 6
    x = min(max(corner[0], 0), size[0] - width)
    y = corner[1] - height if corner[1] >= height else min(corner[1], size[1] - height)
    pen.rectangle((x, y, x + width, y + height), fill=paper)
    pen.text((x + 3, y + 3 - top), name, fill=_INK, font=font)


def colour(label: int) -> tuple[int, int, int]:
    """A light colour, far from those of the labels before it."""
    red, green, blue = colorsys.hsv_to_rgb((label * _GOLDEN) % 1.0, 0.55, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _sheet(rows: list[list[Image.Image]], heads: tuple[str, str]) -> Image.Image:
    widths = [max(pictures[column].width for pictures in rows) for column in range(len(heads))]
    heights = [max(picture.height for picture in pictures) for pictures in rows]
    top = _LETTERS + 2 * _GAP
    paper = Image.new(
        "RGB",
        (sum(widths) + _GAP * (len(widths) + 1), top + sum(heights) + _GAP * len(heights)),
        _PAPER,
    )
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(_LETTERS)
    x = _GAP
    for column, head in enumerate(heads):
        pen.text((x, _GAP // 2), head, fill=_INK, font=font)
        y = top
        for pictures, height in zip(rows, heights, strict=True):
            paper.paste(pictures[column], (x, y))
            y += height + _GAP
        x += widths[column] + _GAP
    return paper
