"""A prepared detection dataset as a detector takes it: image bytes from Arrow, boxes from JSON.

mmdet has datasets of its own; they read files by name and draw from global generators. Here the
draws of a sample only depend on seed, epoch and image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

from steps.command import UserError
from steps.core.seeds import derive
from steps.data.annotations import bitmap, read_annotations, usable
from steps.data.shards import Images
from steps.params.detection import Augmentation, RangeCrop

Pixels = npt.NDArray[np.uint8]
_STRIP = 20
"""Largest ratio of the sides of an image that is cut before it is resized."""


class Detections(Dataset[dict[str, Any]]):
    """A split: images resized to fit a size, with their objects where it is for training.

    Args:
        folder: the prepared dataset.
        split: train or val.
        image_size: side of a square that images fit into; padding is left to mmdet.
        short_side: images have this short side instead, and ``image_size`` limits the long one.
        seed: of the augmentation.
        augmentation: of the training split; ``None``: no targets, all images in order.
        keep_empty: keep training images without annotations.
        min_image_size: leave out training images with a shorter side.
        masks: objects have masks, not only boxes.

    Raises:
        UserError: images and annotations do not belong together, there is no object, or no image
            is left.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        image_size: int,
        short_side: int | None = None,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        keep_empty: bool = True,
        min_image_size: int = 0,
        masks: bool = True,
    ) -> None:
        self.images = Images(folder, split)
        self.image_size = image_size
        self.short_side = short_side
        self.seed = seed
        self.epoch = 0
        """Set before each epoch; it decides the draws."""
        self.augmentation = augmentation
        self.masks = masks
        path = folder / f"{split}.json"
        content = read_annotations(path)
        if [image["file_name"] for image in content["images"]] != self.images.ids:
            raise UserError(
                str(path), f"other images than {split}.arrow", remedy="prepare the dataset again"
            )
        self.metainfo = {"classes": tuple(item["name"] for item in content["categories"])}
        labels = {item["id"]: label for label, item in enumerate(content["categories"])}
        targets: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        self.boxes = self.boxes_dropped = 0
        for box in content["annotations"]:
            image = targets[box["image_id"]]
            if usable(box, masks=masks):
                self.boxes += 1
                image.append({"label": labels[box["category_id"]], **_essence(box, masks)})
            else:
                self.boxes_dropped += 1
        if all(box["crowd"] for found in targets.values() for box in found):
            raise UserError(
                str(path),
                "no object" + " with a mask" * masks,
                allowed="objects in train, to learn from, and in val, to be found",
                remedy="correct the dataset and prepare it again",
            )
        self.rows: list[tuple[int, int, bytes]] = []
        """(row of the Arrow file, image id, targets as JSON, which is small and quick to share)."""
        for row, image in enumerate(content["images"]):
            found = targets[image["id"]]
            if augmentation is not None:
                empty = all(box["crowd"] for box in found)
                small = min(image["width"], image["height"]) < min_image_size
                if small or (empty and not keep_empty):
                    continue
            self.rows.append((row, image["id"], json.dumps(found).encode()))
        self.images_dropped = len(self.images) - len(self.rows)
        if not self.rows:
            raise UserError(
                str(path),
                "no image is left",
                remedy="set keep_empty: true or a smaller min_image_size in the protocol",
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``inputs``: (3, H, W) uint8 RGB, H and W up to ``image_size``; ``data_samples``."""
        row, image_id, targets = self.rows[index]
        image: Pixels = np.asarray(self.images.image(row))
        meta = {"img_id": image_id, "ori_shape": image.shape[:2]}
        if self.augmentation is None:
            size = fitted(image, self.image_size, self.short_side)
            return _pack(_resize(image, size), meta, None)
        rng = np.random.default_rng(derive(self.seed, "augment", self.epoch, image_id))
        height, width = image.shape[:2]
        found = Targets.from_annotations(json.loads(targets), height, width, masks=self.masks)
        image, found = self._augment(self.augmentation, image, found, rng)
        return _pack(image, meta, found.at_least(self.augmentation.min_box))

    def _augment(
        self,
        augmentation: Augmentation,
        image: Pixels,
        found: Targets,
        rng: np.random.Generator,
    ) -> tuple[Pixels, Targets]:
        short_side, factor = self.short_side, 1.0
        if augmentation.short_sides:
            if augmentation.crop is not None and rng.random() < 0.5:
                image, found = _cut(augmentation.crop, image, found, rng)
            short_side = int(rng.choice(augmentation.short_sides))
        elif augmentation.scale_jitter is not None:
            low, high = augmentation.scale_jitter
            factor = float(rng.uniform(low, high))
        size = fitted(image, self.image_size, short_side, factor)
        image, found = _resize(image, size), found.resized(size)
        if rng.random() < augmentation.flip:
            image, found = image[:, ::-1], found.flipped()
        if max(size) > self.image_size:
            window = (min(self.image_size, size[0]), min(self.image_size, size[1]))
            image, found = _window(image, found, window, rng)
        return image, found


def sample_of(image: Pixels, image_size: int, short_side: int | None) -> dict[str, Any]:
    """Any image (H, W, 3), resized as those of a validation split."""
    meta = {"img_id": 0, "ori_shape": image.shape[:2]}
    return _pack(_resize(image, fitted(image, image_size, short_side)), meta, None)


def fitted(
    image: Pixels, image_size: int, short_side: int | None = None, factor: float = 1.0
) -> tuple[int, int]:
    """Height and width that fit ``factor`` times the square of side ``image_size``, aspect kept.

    With ``short_side``: that has it, but for images that would be too long.
    """
    height, width = image.shape[:2]
    scale = factor * image_size / max(height, width)
    if short_side is not None:
        scale = min(scale, short_side / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


class Targets:
    """The objects of an image.

    Args:
        boxes: (N, 4) float32, corners.
        labels: (N,).
        crowds: (N,).
        size: height and width of the image.
        masks: None: only boxes.
    """

    def __init__(
        self,
        boxes: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        crowds: npt.NDArray[np.bool_],
        size: tuple[int, int],
        masks: BitmapMasks | None,
    ) -> None:
        self.boxes, self.labels, self.crowds = boxes, labels, crowds
        self.size, self.masks = size, masks

    @classmethod
    def from_annotations(
        cls, found: list[dict[str, Any]], height: int, width: int, *, masks: bool = True
    ) -> Targets:
        """From a dataset's annotations of an image of this size."""
        corners = np.array([box["corners"] for box in found], np.float32).reshape(-1, 4)
        bitmaps = None
        if masks:
            bitmaps = BitmapMasks([bitmap(box, height, width) for box in found], height, width)
        return cls(
            corners.clip(0, np.array([width, height, width, height], np.float32)),
            np.array([box["label"] for box in found], np.int64),
            np.array([box["crowd"] for box in found], bool),
            (height, width),
            bitmaps,
        )

    def resized(self, size: tuple[int, int]) -> Targets:
        """For the image resized to (height, width)."""
        height, width = self.size
        factors = np.array([size[1] / width, size[0] / height] * 2, np.float32)
        masks = None if self.masks is None else self.masks.resize(size)
        return Targets(self.boxes * factors, self.labels, self.crowds, size, masks)

    def flipped(self) -> Targets:
        """For the image mirrored left to right."""
        width = self.size[1]
        left, top, right, bottom = self.boxes.T
        boxes = np.stack([width - right, top, width - left, bottom], axis=1)
        masks = None if self.masks is None else self.masks.flip("horizontal")
        return Targets(boxes, self.labels, self.crowds, self.size, masks)

    def cropped(self, top: int, left: int, bottom: int, right: int) -> Targets:
        """For a part of the image: boxes become those of what is seen of the masks.

        Boxes without masks are cut at its edges; what is outside has no area.
        """
        size = (bottom - top, right - left)
        if self.masks is None:
            moved = self.boxes - np.array([left, top] * 2, np.float32)
            boxes = moved.clip(0, np.array([size[1], size[0]] * 2, np.float32))
            return Targets(boxes, self.labels, self.crowds, size, None)
        masks = self.masks.crop(np.array([left, top, right, bottom]))
        boxes = masks.get_bboxes("hbox").tensor.numpy()
        return Targets(boxes, self.labels, self.crowds, size, masks)

    def at_least(self, side: float) -> Targets:
        """Those with a box wider and higher than ``side`` pixels."""
        keep = ((self.boxes[:, 2:] - self.boxes[:, :2]) > side).all(axis=1)
        kept = np.flatnonzero(keep)
        masks = None if self.masks is None else self.masks[kept]
        return Targets(self.boxes[kept], self.labels[kept], self.crowds[kept], self.size, masks)

    def instances(self, *, crowds: bool) -> InstanceData:
        """mmdet's form of the crowds or of all others."""
        chosen = np.flatnonzero(self.crowds == crowds)
        instances = InstanceData(
            bboxes=torch.from_numpy(self.boxes[chosen]),
            labels=torch.from_numpy(self.labels[chosen]),
        )
        if self.masks is not None:
            instances.masks = self.masks[chosen]
        return instances


def _essence(box: Mapping[str, Any], masks: bool) -> dict[str, Any]:
    left, top, width, height = box["bbox"]
    return {
        "corners": [left, top, left + width, top + height],
        "crowd": bool(box.get("iscrowd", 0)),
        **({"id": box["id"], "segmentation": box["segmentation"]} if masks else {}),
    }


def _resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    if image.shape[:2] == size:
        return image
    resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _window(
    image: Pixels, found: Targets, size: tuple[int, int], rng: np.random.Generator
) -> tuple[Pixels, Targets]:
    """A part of the image of this height and width, anywhere."""
    top, left = (
        int(rng.integers(0, whole - side + 1))
        for whole, side in zip(image.shape, size, strict=False)
    )
    bottom, right = top + size[0], left + size[1]
    return image[top:bottom, left:right], found.cropped(top, left, bottom, right)


def _cut(
    crop: RangeCrop, image: Pixels, found: Targets, rng: np.random.Generator
) -> tuple[Pixels, Targets]:
    """Resize to one of the short sides, then keep a part whose sides are drawn too.

    A strip stays whole: its other side would become as many times longer.
    """
    if max(image.shape[:2]) > _STRIP * min(image.shape[:2]):
        return image, found
    scale = int(rng.choice(crop.short_sides)) / min(image.shape[:2])
    size = round(image.shape[0] * scale), round(image.shape[1] * scale)
    image, found = _resize(image, size), found.resized(size)
    least, most = crop.sides
    height, width = (
        int(rng.integers(min(side, least), min(side, most) + 1)) for side in image.shape[:2]
    )
    return _window(image, found, (height, width), rng)


def _pack(image: Pixels, meta: dict[str, Any], targets: Targets | None) -> dict[str, Any]:
    height, width = image.shape[:2]
    factors = (width / meta["ori_shape"][1], height / meta["ori_shape"][0])
    sample = DetDataSample(metainfo={**meta, "img_shape": (height, width), "scale_factor": factors})
    if targets is not None:
        sample.gt_instances = targets.instances(crowds=False)
        sample.ignored_instances = targets.instances(crowds=True)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return {"inputs": pixels, "data_samples": sample}
