"""The drawn dataset as a source: images of one shape with captions, or scenes with boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steps.data.shards import SPLITS
from steps.data.sources.shapes.outlines import CLASSES
from steps.data.sources.shapes.paint import encode, paint
from steps.data.sources.shapes.scenes import Scene, sample_scene
from steps.data.sources.shapes.words import describe
from steps.data.sources.source import Item, Source
from steps.params.dataset import ShapesDataset

_MOST_SHAPES = 1000
"""Annotation numbers are the image's number times this, plus the shape's."""


class ShapesSource(Source):
    """Each image has a generator of its own, seeded by (seed, split, position): the same params
    give the same bytes, and a smaller set is the beginning of a larger one."""

    def __init__(self, dataset: ShapesDataset) -> None:
        self._dataset = dataset
        self.kind = dataset.kind
        self.classes = list(CLASSES)
        self.has_captions = dataset.kind == "classification"
        if dataset.kind == "detection":
            self.categories = [
                {"id": number, "name": name, "supercategory": "shape"}
                for number, name in enumerate(CLASSES, start=1)
            ]

    def labels(self, split: str) -> Sequence[int | None]:
        count = self._dataset.train if split == "train" else self._dataset.val
        if self.kind == "detection":
            return [None] * count
        return [position % len(CLASSES) for position in range(count)]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        draw = self._scene if self.kind == "detection" else self._labelled
        for position in keep:
            seed = [self._dataset.seed, SPLITS.index(split), position]
            yield draw(f"{split}-{position:06d}", position, np.random.default_rng(seed))

    def _labelled(self, name: str, position: int, generator: np.random.Generator) -> Item:
        label = position % len(CLASSES)
        scene = sample_scene(self._dataset, CLASSES[label], generator)
        encoded = encode(paint(scene, self._dataset, generator))
        radii = [radius for interval in self._dataset.radii for radius in interval]
        captions = describe(scene, (min(radii), max(radii)), generator)
        return Item(name, lambda: encoded, label, captions)

    def _scene(self, name: str, position: int, generator: np.random.Generator) -> Item:
        scene = sample_scene(self._dataset, None, generator)
        pixels = paint(scene, self._dataset, generator)
        encoded = encode(pixels)
        number = position + 1
        return Item(
            name,
            lambda: encoded,
            image_id=number,
            size=(pixels.shape[1], pixels.shape[0]),
            annotations=_annotations(scene, number),
        )


def _annotations(scene: Scene, image_id: int) -> tuple[dict[str, Any], ...]:
    annotations = []
    for i, (shape, pixels) in enumerate(zip(scene.shapes, scene.visible(), strict=True)):
        rows, columns = np.nonzero(pixels)
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
        annotations.append(
            {
                "id": image_id * _MOST_SHAPES + i,
                "image_id": image_id,
                "category_id": CLASSES.index(shape.name) + 1,
                "bbox": [float(value) for value in box],
                "area": float(len(rows)),
                "iscrowd": 0,
                "segmentation": run_lengths(pixels),
            }
        )
    return tuple(annotations)


def run_lengths(mask: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed run-length encoding of a mask ``(H, W)``.

    Counts of pixels column by column, first of those outside, then inside, and so on in turn.
    """
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": [int(side) for side in mask.shape], "counts": [int(n) for n in counts]}
