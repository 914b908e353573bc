"""Annotations on their way into a prepared set: what passes, what is filled in, what is named."""

from __future__ import annotations

from typing import Any

import pytest

from steps.data.instances import Checked, check_annotation

SQUARE = [[2, 2, 6, 2, 6, 6, 2, 6]]
"""16 pixels."""


def annotation(**changed: Any) -> dict[str, Any]:
    """A good one, of an image of 20 x 10; ``...`` leaves a key out."""
    good: dict[str, Any] = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 20, 10]}
    found = good | {"area": 200, "iscrowd": 0} | changed
    return {key: value for key, value in found.items() if value is not ...}


def checked(**changed: Any) -> Checked | str:
    return check_annotation(annotation(**changed), 20, 10, {3})


@pytest.mark.parametrize("box", [[0, 0, 20, 10], [-0.5, 0, 20.9, 10], [19, 9, 1, 1.0]])
def test_boxes_inside_pass(box: list[float]) -> None:
    found = checked(bbox=box)
    assert isinstance(found, Checked)
    assert found.kept["bbox"] == box
    assert (found.notes, found.useful, found.masked) == ((), True, False)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"bbox": [0, 0, 22, 10]}, "outside its image of 20x10"),
        ({"bbox": [-2, 0, 5, 5]}, "outside"),
        ({"bbox": [0, 6, 5, 6]}, "outside"),
        ({"bbox": [100, 100, 5, 5]}, "outside"),
        ({"bbox": [1, 1, 0, 5]}, "has no area"),
        ({"bbox": [1, 1, 5, -1]}, "has no area"),
        ({"bbox": [1, 1, 5]}, "not four numbers"),
        ({"bbox": [1, 1, 5, float("nan")]}, "not four numbers"),
        ({"bbox": [1, 1, 5, 10**400]}, "not four numbers"),
        ({"bbox": [True, True, 5, 5]}, "not four numbers"),
        ({"bbox": None}, "not four numbers"),
        ({"bbox": ...}, "no key 'bbox'"),
        ({"category_id": 4}, "category_id 4 is not among"),
        ({"category_id": [3]}, "category_id [3] is not among"),
        ({"category_id": "3"}, "category_id '3' is not among"),
        ({"category_id": ...}, "no key 'category_id'"),
        ({"iscrowd": "0"}, "iscrowd '0' is neither 0 nor 1"),
        ({"iscrowd": 2}, "iscrowd 2 is neither"),
        ({"iscrowd": True}, "iscrowd True is neither"),
        ({"area": "81"}, "area '81' is no number"),
        ({"area": float("nan")}, "area nan is no number"),
        ({"area": 1e300}, "area 1e+300 is no number of pixels that its image of 20x10 has"),
        ({"segmentation": {"size": [10, 20], "counts": [200]}}, "covers no pixel"),
    ],
)
def test_bad_annotations_are_named(changed: dict[str, Any], problem: str) -> None:
    found = checked(**changed)
    assert isinstance(found, str)
    assert problem in found


@pytest.mark.parametrize("area", [..., None, 0, 0.0, -1])
@pytest.mark.parametrize(("mask", "expected"), [(SQUARE, 16), ([], 25), (None, 25), (..., 25)])
def test_a_missing_area_is_that_of_the_mask_or_of_the_box(
    area: Any, mask: Any, expected: float
) -> None:
    found = checked(area=area, segmentation=mask, bbox=[2, 2, 5, 5])
    assert isinstance(found, Checked)
    assert found.kept["area"] == expected
    assert len(found.notes) == 1


@pytest.mark.parametrize("crowd", [..., None])
def test_a_missing_iscrowd_is_no_crowd(crowd: Any) -> None:
    found = checked(iscrowd=crowd)
    assert isinstance(found, Checked)
    assert found.kept["iscrowd"] == 0
    assert found.notes == ("iscrowd missing: taken as 0",)


def test_whole_numbers_are_also_written_with_a_point() -> None:
    runs = {"size": [10.0, 20], "counts": [2.0, 198], "more": 1}
    found = checked(category_id=3.0, iscrowd=0.0, segmentation=runs)
    assert isinstance(found, Checked)
    assert found.kept["segmentation"] == {"size": [10, 20], "counts": [2, 198]}
    assert all(type(found.kept[key]) is int for key in ("category_id", "iscrowd"))


def test_masks_are_left_out_where_boxes_alone_are_wanted() -> None:
    found = check_annotation(annotation(segmentation=SQUARE), 20, 10, {3}, masks=False)
    assert isinstance(found, Checked)
    assert "segmentation" not in found.kept
    assert found.notes == ("mask left out, as masks: false says",)


@pytest.mark.parametrize("changed", [{"bbox": [3, 3, 0.5, 5]}, {"segmentation": [[3.2, 3.2] * 3]}])
def test_what_is_smaller_than_a_pixel_stays_and_is_of_no_use(changed: dict[str, Any]) -> None:
    found = checked(**changed)
    assert isinstance(found, Checked)
    assert not found.useful
