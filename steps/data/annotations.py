"""COCO's annotations of a prepared set: boxes, masks, classes, and semantic masks made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.data.segmentations import Mask, SegmentationError, given
from steps.data.segmentations import bitmap as pixels_of
from steps.data.values import number

# --- COCO's annotations of a prepared set: boxes, masks, classes


def large_enough(box: Mapping[str, Any]) -> bool:
    """True if a COCO annotation can be a target: mmdet asks for a pixel of width and height."""
    _, _, width, height = box["bbox"]
    return bool(width >= 1 and height >= 1 and box["area"] > 0)


def usable(box: Mapping[str, Any], *, masks: bool) -> bool:
    """True of an annotation that can be a target of a task that needs masks, or does not."""
    return large_enough(box) and (not masks or given(box.get("segmentation")))


def has_masks(folder: Path) -> bool:
    """True of a prepared detection dataset that has masks, not only boxes.

    Raises:
        UserError: it is of another kind, or has no readable annotations.
    """
    facts = read_manifest(folder, "prepare").facts
    if facts.get("kind") != "detection":
        raise UserError(str(folder), f"a dataset of kind {facts.get('kind')}", allowed="detection")
    if (stated := facts.get("masks")) is not None:
        return bool(stated)
    # A set prepared before facts said so.
    contents = (read_annotations(folder / f"{split}.json") for split in ("train", "val"))
    return all(
        any(given(box.get("segmentation")) for box in content["annotations"])
        for content in contents
    )


def need_masks(folder: Path, task: str) -> None:
    """Stop a task before any work where a dataset has only boxes.

    Raises:
        UserError: the dataset has no masks.
    """
    if not has_masks(folder):
        raise UserError(
            str(folder),
            f"a set of boxes alone, and {task} needs masks",
            allowed="a detection dataset with a segmentation for each annotation",
            remedy=f"take such a set, or leave the task {task} out",
        )


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
    """A COCO instances file that ``steps.prepare`` wrote.

    Raises:
        UserError: it is absent, no JSON, or of a time when annotations were not checked.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            str(path), f"no readable annotations ({error})", remedy="prepare the dataset again"
        ) from error
    for box in content["annotations"]:
        if number(box["area"]) is None or box.get("iscrowd", 0) not in (0, 1):
            raise UserError(
                str(path),
                f"annotation {box['id']} has no number as area, or iscrowd is neither 0 nor 1",
                remedy="prepare the dataset again",
            )
    return content


def bitmap(box: Mapping[str, Any], height: int, width: int) -> Mask:
    """(height, width) of 0 and 1, the pixels of a prepared annotation.

    Raises:
        UserError: its mask is none, which ``steps.prepare`` did not always see.
    """
    try:
        return pixels_of(box["segmentation"], height, width)
    except SegmentationError as error:
        raise UserError(
            f"annotation {box['id']}", str(error), remedy="prepare the dataset again"
        ) from error


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
        if usable(box, masks=True) and not box.get("iscrowd", 0):
            image = box["image_id"]
            mask = bitmap(box, *sizes[image])
            found[image] = mask if image not in found else found[image] | mask
    return [found.get(image["id"]) for image in content["images"]]


# --- Semantic masks, a class for each pixel, made of a prepared set's instance annotations


BACKGROUND = "background"
IGNORED = 255
"""Class of a pixel that is not annotated; it counts nowhere."""


class SemanticMasks:
    """The masks of a split, in the order of its images.

    A pixel of no object is background, class 0; the dataset's categories follow in their order.
    Where objects overlap the smaller one, by annotated area, is in front. What a crowd covers and
    no object does is ignored: objects are there, not told apart from what is between them.

    Args:
        folder: the prepared dataset.
        split: train or val.

    Raises:
        UserError: no annotations, or more classes than a byte holds.
    """

    def __init__(self, folder: Path, split: str) -> None:
        names = class_names(folder)
        if len(names) >= IGNORED:
            raise UserError(str(folder), f"{len(names)} classes", allowed=f"up to {IGNORED - 1}")
        self.classes = (BACKGROUND, *names)
        content = read_annotations(folder / f"{split}.json")
        labels = {item["id"]: label for label, item in enumerate(content["categories"], start=1)}
        self.sizes = [(image["height"], image["width"]) for image in content["images"]]
        rows = {image["id"]: row for row, image in enumerate(content["images"])}
        self._layers: list[list[tuple[bool, float, int, dict[str, Any]]]] = [[] for _ in self.sizes]
        for box in content["annotations"]:
            if usable(box, masks=True):
                crowd = bool(box.get("iscrowd", 0))
                label = IGNORED if crowd else labels[box["category_id"]]
                layer = (crowd, float(box["area"]), label, box)
                self._layers[rows[box["image_id"]]].append(layer)
        for layers in self._layers:
            # From back to front: crowds, then objects from the largest to the smallest.
            layers.sort(key=lambda layer: (not layer[0], -layer[1]))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Mask:
        """(height, width) uint8."""
        mask = np.zeros(self.sizes[index], np.uint8)
        for _, _, label, box in self._layers[index]:
            mask[bitmap(box, *self.sizes[index]) > 0] = label
        return mask
