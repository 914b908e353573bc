"""Average precision on resamples of images: what pycocotools finds in a set of copies."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO

from steps.artifacts.decisions import Decisions, of_detections
from steps.evaluation.precision import KINDS, average_precision, in_coco_format, resampled

SIDE, CATEGORIES = 64, (1, 4, 9)


def _masks(boxes: np.ndarray) -> list[str]:
    pixels = np.zeros((SIDE, SIDE, len(boxes)), np.uint8, order="F")
    for index, (left, top, width, height) in enumerate(boxes.round().astype(int)):
        pixels[top : top + height, left : left + width, index] = 1
    return [each["counts"].decode() for each in rle.encode(pixels)]


def _scene(images: int, seed: int) -> tuple[dict[str, Any], Decisions]:
    """Objects, some of them crowds, and detections near them or anywhere.

    Scores are equal in many images, and differ within one.
    """
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    found: dict[str, list[Any]] = {"image": [], "category": [], "score": [], "box": []}
    for image in range(1, images + 1):
        for _ in range(int(rng.integers(0, 4))):
            box = np.array([*rng.integers(0, 30, 2), *rng.integers(4, 30, 2)], float)
            # Of the last category there are objects in few images.
            category = CATEGORIES[2] if image % 5 == 0 else int(rng.choice(CATEGORIES[:2]))
            counts = _masks(box[None])[0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(rng.random() < 0.15),
                    "segmentation": {"size": [SIDE, SIDE], "counts": counts},
                }
            )
            for _ in range(int(rng.integers(0, 3))):
                near = np.maximum(box + rng.normal(0, 1.5, 4), [0, 0, 2, 2])
                found["box"].append(near.astype(np.float32).astype(float))
                found["category"].append(category)
                found["image"].append(image)
                found["score"].append(round(float(rng.random()), 1))
        for _ in range(int(rng.integers(0, 4))):
            found["box"].append(np.array([*rng.integers(0, 40, 2), 12, 9], float))
            found["category"].append(int(rng.choice(CATEGORIES)))
            found["image"].append(image)
            found["score"].append(round(float(rng.random()), 1))
    boxes = np.array(found["box"])
    place = [found["image"][:index].count(image) for index, image in enumerate(found["image"])]
    scores = [score + 1e-3 * rank for score, rank in zip(found["score"], place, strict=True)]
    size = {"width": SIDE, "height": SIDE}
    truth = {
        "images": [{"id": number, "file_name": "a", **size} for number in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": str(number)} for number in CATEGORIES],
    }
    return truth, of_detections(found["image"], found["category"], scores, boxes, _masks(boxes))


def _index(content: dict[str, Any]) -> COCO:
    truth = COCO()
    truth.dataset = copy.deepcopy(content)
    truth.createIndex()
    return truth


def _copies(
    content: dict[str, Any], found: list[dict[str, Any]], weights: np.ndarray
) -> tuple[COCO, list[dict[str, Any]]]:
    """A set that holds each image as often as it was drawn, under ids of their own, in order."""
    images, annotations, detections = [], [], []
    for image, count in zip(content["images"], weights, strict=True):
        for _ in range(count):
            number = len(images) + 1
            images.append({**image, "id": number})
            for box in content["annotations"]:
                if box["image_id"] == image["id"]:
                    annotations.append({**box, "id": len(annotations) + 1, "image_id": number})
            detections += [
                {**each, "image_id": number} for each in found if each["image_id"] == image["id"]
            ]
    whole = {**content, "images": images, "annotations": annotations}
    return _index(whole), copy.deepcopy(detections)


@pytest.mark.parametrize("kind", KINDS.values())
def test_a_resample_is_a_set_of_copies(kind: str) -> None:
    content, decided = _scene(images=20, seed=3)
    rng = np.random.default_rng(0)
    weights = np.stack(
        [
            np.ones(20, int),
            *(np.bincount(rng.integers(20, size=20), minlength=20) for _ in range(8)),
        ]
    ).astype(np.int32)
    weights[1, 4::5] = 0  # no object of the last category
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _index(content)
        draws = resampled(truth, decided, kind, weights)
        found = in_coco_format(truth, decided, kind)
        expected = [
            average_precision(*_copies(content, found, each), kind)["AP"] for each in weights
        ]
    assert 5 < min(expected) < max(expected) < 95
    assert len({round(value, 3) for value in expected}) > 6
    np.testing.assert_allclose(draws, expected, rtol=1e-5)


def test_nothing_found_is_nothing_right() -> None:
    content, _ = _scene(images=6, seed=0)
    nothing = of_detections([], [], [], np.empty((0, 4)), None)
    with contextlib.redirect_stdout(io.StringIO()):
        draws = resampled(_index(content), nothing, "bbox", np.eye(6, dtype=np.int32))
    assert draws.tolist() == [0.0] * 6
