"""Detections drawn on images: masks, boxes and names where the objects are."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from steps.detection.dataset import Detections
from steps.detection.drawing import Objects, colour, detect, draw, overlay
from steps.detection.train import build_detector
from steps.params.detection import Detection, Pictures


def one(name: str = "disc") -> Objects:
    mask = np.zeros((1, 100, 100), bool)
    mask[0, 40:60, 20:80] = True
    boxes = np.array([[20, 40, 80, 60]], np.float32)
    return Objects(boxes, np.array([3]), mask, [name])


def test_masks_colour_their_pixels_and_no_others() -> None:
    grey = Image.new("RGB", (100, 100), (100, 100, 100))
    picture = np.asarray(overlay(grey, one()), float)
    assert picture.shape == (420, 420, 3)
    scale = 4.2
    inside = picture[int(50 * scale), int(50 * scale)]
    np.testing.assert_allclose(inside, 100 + 0.45 * (np.array(colour(3)) - 100), atol=1)
    np.testing.assert_array_equal(picture[int(80 * scale), int(50 * scale)], [100, 100, 100])
    # The box, on its lower edge.
    np.testing.assert_array_equal(picture[int(60 * scale) - 1, int(50 * scale)], colour(3))


def test_names_stand_above_their_boxes_and_inside_the_image() -> None:
    grey = Image.new("RGB", (100, 100), (100, 100, 100))
    named, other = (np.asarray(overlay(grey, one(name))) for name in ("disc", "d"))
    rows, columns = np.nonzero((named != other).any(axis=2))
    assert rows.max() < 40 * 4.2
    assert columns.min() >= 20 * 4.2
    wide = one("a name that is far too long for the place beside its box")
    assert overlay(grey, wide).size == (420, 420)


def test_large_images_keep_their_size() -> None:
    nothing = Objects(
        np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 300, 640), bool), []
    )
    assert overlay(Image.new("RGB", (640, 300)), nothing).size == (640, 300)


def test_colours_of_labels_differ() -> None:
    assert len({colour(label) for label in range(80)}) == 80


def test_detections_are_in_the_image_s_own_pixels(
    small: Callable[..., Detection], backbone: Path, scenes: Path
) -> None:
    params = small()
    model = build_detector(params, backbone=backbone, classes=2, seed=0)
    views = Detections(scenes, "val", image_size=64)
    sample = views[0]
    height, width = sample["data_samples"].metainfo["ori_shape"]
    found = detect(model, sample, ("rectangle", "disc"), 0.0)
    assert len(found.names) == len(found.boxes) > 0
    assert found.masks.shape[1:] == (height, width)
    assert found.boxes[:, 2].max() <= width
    assert detect(model, sample, ("rectangle", "disc"), 1.0).names == []


def test_a_sheet_has_as_many_rows_as_asked_for(
    small: Callable[..., Detection], backbone: Path, scenes: Path
) -> None:
    heights = []
    for images in (1, 2):
        params = small(pictures=Pictures(images=images).model_dump())
        model = build_detector(params, backbone=backbone, classes=2, seed=0)
        heights.append(Image.open(io.BytesIO(draw(model, params, scenes))).height)
    assert heights[1] > heights[0] + 300
