"""COCO's masks: what pycocotools makes of good ones, and words for bad ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from steps.data.segmentations import SegmentationError, bitmap, bounds, pixels, run_lengths

HEIGHT, WIDTH = 6, 8
TOTAL = HEIGHT * WIDTH


def compressed(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    found = rle.encode(np.asfortranarray(mask))
    return {"size": found["size"], "counts": found["counts"].decode()}


def listed(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    flat = np.concatenate([[0], mask.T.ravel()])
    changes = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def test_run_lengths_of_both_forms_give_the_mask_they_were_made_of() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        for _ in range(50):
            height, width = (int(side) for side in rng.integers(1, 50, 2))
            mask = (rng.random((height, width)) < share).astype(np.uint8)
            for form in (compressed(mask), listed(mask)):
                np.testing.assert_array_equal(bitmap(form, height, width), mask)
                assert pixels(run_lengths(form, height, width)) == mask.sum()


def test_long_runs_of_a_large_mask() -> None:
    mask = np.zeros((3000, 2000), np.uint8)
    mask[100:2900, 40:1990] = 1
    runs = run_lengths(compressed(mask), 3000, 2000)
    assert pixels(runs) == mask.sum()
    assert bounds(runs) == (40, 100, 1950, 2800)


def test_polygons_are_cut_at_the_edge_and_put_together() -> None:
    two = [[-3, 1, 2, 1, 2, 4, -3, 4], [6, 0, 8, 0, 8, 2, 6, 2.0]]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:4, :2] = expected[:2, 6:] = 1
    np.testing.assert_array_equal(bitmap(two, HEIGHT, WIDTH), expected)


def zigzag(points: int) -> list[float]:
    return [value for k in range(points) for value in (k % 2 * WIDTH, k % 3)]


BAD: list[tuple[Any, str]] = [
    ([], "no polygon"),
    ([[]], "a polygon of 0 numbers"),
    ([[1, 1, 2, 2]], "a polygon of 4 numbers"),
    ([[1, 1, 5, 1, 5, 4, 1]], "a polygon of 7 numbers"),
    ([1, 1, 5, 1, 5, 4], "holds 1, and not lists"),
    ([[[1, 1], [5, 1], [5, 4]] * 2], "with [1, 1], no number"),
    ([["1", "1", "5", "1", "5", "4"]], "with '1', no number"),
    ([[1, 1, 5, True, 5, 4]], "with True, no number"),
    ([[1, 1, None, 1, 5, 4]], "with None, no number"),
    ([[1, 1, float("nan"), 1, 5, 4]], "not finite"),
    ([[1, 1, float("inf"), 1, 5, 4]], "not finite"),
    ([[1, 1, 1e300, 1, 5, 4]], "far outside its image of 8x6"),
    ([[1, 1, -1e9, 1, 5, 4]], "far outside"),
    ([[1, 1, 10**400, 1, 5, 4]], "beyond any image"),
    ([zigzag(100_000)], "longer than 100 times around its image of 8x6"),
    ("abc", "'abc', neither polygons nor run lengths"),
    (5, "5, neither"),
    (True, "True, neither"),
    ({}, "the size None"),
    ({"counts": [TOTAL]}, "the size None"),
    ({"size": [HEIGHT, WIDTH]}, "counts of None"),
    ({"size": [WIDTH, HEIGHT], "counts": [TOTAL]}, "the size [8, 6]"),
    ({"size": [60_000, 60_000], "counts": [3_600_000_000]}, "the size [60000, 60000]"),
    ({"size": [HEIGHT, WIDTH, 1], "counts": [TOTAL]}, "the size [6, 8, 1]"),
    ({"size": [[HEIGHT], WIDTH], "counts": [TOTAL]}, "the size [[6], 8]"),
    ({"size": ["6", "8"], "counts": [TOTAL]}, "the size ['6', '8']"),
    ({"size": 48, "counts": [TOTAL]}, "the size 48"),
    ({"size": [HEIGHT, WIDTH], "counts": []}, "0 pixels in all"),
    ({"size": [HEIGHT, WIDTH], "counts": [10, 20]}, "30 pixels in all"),
    ({"size": [HEIGHT, WIDTH], "counts": [10, 39]}, "49 pixels in all"),
    ({"size": [HEIGHT, WIDTH], "counts": [-5, TOTAL + 5]}, "the run length -5"),
    ({"size": [HEIGHT, WIDTH], "counts": [2**63 - 1] * 4}, "the run length 92233720"),
    ({"size": [HEIGHT, WIDTH], "counts": [10**400]}, "the run length 1000"),
    ({"size": [HEIGHT, WIDTH], "counts": [1.5, 46.5]}, "the run length 1.5"),
    ({"size": [HEIGHT, WIDTH], "counts": ["48"]}, "the run length '48'"),
    ({"size": [HEIGHT, WIDTH], "counts": [True, 47]}, "the run length True"),
    ({"size": [HEIGHT, WIDTH], "counts": ""}, "cut off"),
    ({"size": [HEIGHT, WIDTH], "counts": "o"}, "cut off"),
    ({"size": [HEIGHT, WIDTH], "counts": "abc"}, "cut off"),
    ({"size": [HEIGHT, WIDTH], "counts": "73 0"}, "a character that COCO never writes"),
    ({"size": [HEIGHT, WIDTH], "counts": "é"}, "a character that COCO never writes"),
    ({"size": [HEIGHT, WIDTH], "counts": "\ud800"}, "a character that COCO never writes"),
    ({"size": [HEIGHT, WIDTH], "counts": "73300000"}, "pixels in all"),
    ({"size": [HEIGHT, WIDTH], "counts": "o" * 7 + "0"}, "beyond any image"),
    ({"size": [HEIGHT, WIDTH], "counts": "ooooo1"}, "the run length"),
    ({"size": [HEIGHT, WIDTH], "counts": {"a": 1}}, "counts of {'a': 1}"),
]


@pytest.mark.parametrize(("segmentation", "problem"), BAD, ids=[problem for _, problem in BAD])
def test_bad_masks_are_named(segmentation: Any, problem: str) -> None:
    with pytest.raises(SegmentationError) as caught:
        run_lengths(segmentation, HEIGHT, WIDTH)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 200
