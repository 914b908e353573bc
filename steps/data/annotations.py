"""COCO's annotations of a prepared set: boxes, masks, classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as rle

from steps.command import UserError

Mask = npt.NDArray[np.uint8]
"""(height, width) of 0 and 1."""


def usable(box: Mapping[str, Any]) -> bool:
    """Whether a COCO annotation can be a target: mmdet asks for a pixel of width and height."""
    _, _, width, height = box["bbox"]
    return bool(width >= 1 and height >= 1 and box["area"] > 0 and box.get("segmentation"))


def class_names(folder: Path) -> tuple[str, ...]:
    """The classes of a prepared detection dataset, in the order of its categories.

    Raises:
        UserError: there are none, or the splits differ in them.
    """
    train, val = (read_annotations(folder / f"{s}.json")["categories"] for s in ("train", "val"))
    found = [(item["id"], item["name"]) for item in train]
    if not found or found != [(item["id"], item["name"]) for item in val]:
        raise UserError(
            str(folder / "val.json"), "other categories than train.json, or none", remedy="prepare"
        )
    return tuple(name for _, name in found)


def read_annotations(path: Path) -> dict[str, Any]:
    """A COCO instances file.

    Raises:
        UserError: it is absent or no JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            str(path), f"no readable annotations ({error})", remedy="prepare the dataset again"
        ) from error
    return content


def bitmap(segmentation: Any, height: int, width: int) -> Mask:
    """(height, width) of 0 and 1 from COCO's polygons or run lengths."""
    encoded = segmentation
    if isinstance(segmentation, list):
        encoded = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        encoded = rle.frPyObjects(segmentation, height, width)
    decoded: Mask = rle.decode(encoded)
    return decoded


def objects(folder: Path, split: str) -> list[Mask | None]:
    """The pixels of any object of each image of a split, in order; None where it has none.

    Crowds are no objects.

    Raises:
        UserError: the split has no readable annotations.
    """
    content = read_annotations(folder / f"{split}.json")
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    found: dict[int, Mask] = {}
    for box in content["annotations"]:
        if usable(box) and not box.get("iscrowd", 0):
            image = box["image_id"]
            mask = bitmap(box["segmentation"], *sizes[image])
            found[image] = mask if image not in found else found[image] | mask
    return [found.get(image["id"]) for image in content["images"]]
