"""The drawn dataset as a source: images of one shape with captions, or scenes with boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steps.data.shards import SPLITS
from steps.data.sources.shapes.cues import (
    CONFLICTS,
    FACTORS,
    conflicting,
    factors_of,
    shapes_with_cues,
    with_cues,
)
from steps.data.sources.shapes.outlines import CLASSES
from steps.data.sources.shapes.paint import encode, paint
from steps.data.sources.shapes.scenes import Scene, sample_scene
from steps.data.sources.shapes.words import describe
from steps.data.sources.source import Item, Source
from steps.params.dataset import Cues, ShapesDataset

_MOST_SHAPES = 1000
"""Annotation numbers are the image's number times this, plus the shape's."""
_AGREE = Cues(colour=1.0, texture=1.0, ground_colour=1.0, ground_texture=1.0)


class ShapesSource(Source):
    """Each image has a generator of its own, seeded by (seed, split, position): the same params
    give the same bytes, and a smaller set is the beginning of a larger one."""

    def __init__(self, dataset: ShapesDataset) -> None:
        self._dataset = dataset
        self.kind = dataset.kind
        self.classes = list(CLASSES)
        self.has_captions = dataset.kind == "classification"
        if dataset.has_factors:
            self.factors = {**FACTORS, **({"conflict": CONFLICTS} if dataset.conflicts else {})}
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
        for position in keep:
            seed = [self._dataset.seed, SPLITS.index(split), position]
            name, generator = f"{split}-{position:06d}", np.random.default_rng(seed)
            if self.kind == "detection":
                yield self._scene(name, position, generator)
            else:
                yield self._labelled(name, position, self._conflict(split, position), generator)

    def _conflict(self, split: str, position: int) -> int:
        """Index of the cue that contradicts the outline: each meets every class equally often."""
        if not self._dataset.conflicts or split == "train":
            return 0
        return 1 + position // len(CLASSES) % (len(CONFLICTS) - 1)

    def _sample(self, name: str | None, conflict: int, generator: np.random.Generator) -> Scene:
        scene = sample_scene(self._dataset, name, generator)
        # A stream of its own: where no cue is taken, the image is that of a set without cues.
        cues, (own,) = self._dataset.cues, generator.spawn(1)
        if conflict:
            return conflicting(scene, CONFLICTS[conflict], own)
        if self._dataset.conflicts:
            return with_cues(scene, _AGREE, own)
        if cues is None:
            return scene
        return (shapes_with_cues if name is None else with_cues)(scene, cues, own)

    def _labelled(
        self, name: str, position: int, conflict: int, generator: np.random.Generator
    ) -> Item:
        label = position % len(CLASSES)
        scene = self._sample(CLASSES[label], conflict, generator)
        encoded = encode(paint(scene, self._dataset, generator))
        radii = [radius for interval in self._dataset.radii for radius in interval]
        captions = describe(scene, (min(radii), max(radii)), generator)
        drawn = {**factors_of(scene), "conflict": conflict}
        factors = {factor: drawn[factor] for factor in self.factors}
        return Item(name, lambda: encoded, label, captions, factors=factors)

    def _scene(self, name: str, position: int, generator: np.random.Generator) -> Item:
        scene = self._sample(None, 0, generator)
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
