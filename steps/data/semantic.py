"""Semantic masks, a class for each pixel, made of a prepared set's instance annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from steps.command import UserError
from steps.data.annotations import bitmap, class_names, read_annotations, usable
from steps.data.segmentations import Mask

BACKGROUND = "background"
IGNORED = 255
"""Of a pixel whose class is not known; it counts nowhere."""


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
