"""Semantic masks of instance annotations: classes, overlaps, crowds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steps.command import UserError
from steps.data.annotations import IGNORED, SemanticMasks


def write(folder: Path, annotations: list[dict[str, Any]], classes: int = 2) -> Path:
    """Annotations of two images of 6 x 8 pixels; the first one has none."""
    content = {
        "images": [{"id": n, "file_name": str(n), "height": 6, "width": 8} for n in (4, 7)],
        "annotations": [{"id": k, "image_id": 7, **box} for k, box in enumerate(annotations)],
        # Ids with gaps, as COCO has them.
        "categories": [{"id": 3 * k + 1, "name": f"class {k}"} for k in range(classes)],
    }
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def box(left: int, top: int, right: int, bottom: int, category: int, **more: Any) -> dict[str, Any]:
    """A rectangle, right and bottom not in it."""
    outline = [left, top, right, top, right, bottom, left, bottom]
    return {
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "category_id": category,
        "segmentation": [[float(value) for value in outline]],
        **more,
    }


@pytest.mark.parametrize("turned", [False, True])
def test_the_smaller_object_is_in_front(tmp_path: Path, turned: bool) -> None:
    boxes = [box(0, 0, 6, 6, 1), box(4, 2, 8, 4, 4)]
    masks = SemanticMasks(write(tmp_path, boxes[::-1] if turned else boxes), "val")
    expected = np.zeros((6, 8), np.uint8)
    expected[:, :6] = 1
    expected[2:4, 4:] = 2
    np.testing.assert_array_equal(masks[1], expected)
    np.testing.assert_array_equal(masks[0], np.zeros((6, 8)))
    assert masks.classes == ("background", "class 0", "class 1")
    assert len(masks) == 2


def test_crowds_are_ignored_and_behind_every_object(tmp_path: Path) -> None:
    crowd = box(0, 0, 4, 2, 4, iscrowd=1)
    masks = SemanticMasks(write(tmp_path, [box(2, 0, 8, 6, 1), crowd]), "train")
    assert set(np.unique(masks[1][:2, :2])) == {IGNORED}
    assert set(np.unique(masks[1][:, 2:])) == {1}
    assert set(np.unique(masks[1][2:, :2])) == {0}


def test_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"255 classes .* up to 254"):
        SemanticMasks(write(tmp_path, [], classes=255), "val")
