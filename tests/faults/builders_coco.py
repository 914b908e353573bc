"""COCO sets of four images, good but for what a trial changes."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from steps.prepare import main

WIDTH, HEIGHT = 64, 48
TOTAL = WIDTH * HEIGHT
SQUARE = [[5, 5, 35, 5, 35, 35, 5, 35]]
BOX = [5, 5, 30, 30]

NAN, INFINITE = float("nan"), float("inf")
SIZE = [HEIGHT, WIDTH]

MASKS: dict[str, tuple[Any, str]] = {
    "polygon of two points": ([[1, 1, 2, 2]], "a polygon of 4 numbers"),
    "polygon without points": ([[]], "a polygon of 0 numbers"),
    "polygon of an odd count": ([[1, 1, 20, 1, 20, 20, 1]], "a polygon of 7 numbers"),
    "polygon of text": ([["a", "b", "c", "d", "e", "f"]], "with 'a', no number"),
    "polygon of pairs": ([[[1, 1], [20, 1], [20, 20]] * 2], "with [1, 1], no number"),
    "polygon of booleans": ([[True] * 6], "with True, no number"),
    "flat polygon": ([1, 1, 20, 1, 20, 20], "holds 1, and not lists"),
    "polygon NaN": ([[1, 1, NAN, 1, 20, 20]], "not finite"),
    "polygon infinite": ([[1, 1, INFINITE, 1, 20, 20]], "not finite"),
    "polygon 1e300": ([[1, 1, 1e300, 1, 20, 20]], "far outside its image of 64x48"),
    "polygon -1e9": ([[1, 1, -1e9, 1, 20, 20]], "far outside"),
    "polygon 10^400": ([[1, 1, 10**400, 1, 20, 20]], "beyond any image"),
    "polygon beside the image": ([[-20, 1, -10, 1, -10, 20]], "covers no pixel of its image"),
    "text": ("abc", "'abc', neither polygons nor run lengths"),
    "a number": (5, "5, neither polygons nor run lengths"),
    "a boolean": (True, "True, neither"),
    "RLE of another size": ({"counts": [10, 20], "size": [3, 4]}, "the size [3, 4]"),
    "RLE transposed": ({"counts": [5, TOTAL - 5], "size": SIZE[::-1]}, "the size [64, 48]"),
    "RLE huge": ({"counts": [1, 2], "size": [60_000, 60_000]}, "the size [60000, 60000]"),
    "RLE without size": ({"counts": [10, TOTAL - 10]}, "the size None"),
    "RLE without counts": ({"size": SIZE}, "counts of None"),
    "RLE negative": ({"counts": [-5, TOTAL + 5], "size": SIZE}, "the run length -5"),
    "RLE too long": ({"counts": [5, TOTAL], "size": SIZE}, f"{TOTAL + 5} pixels in all"),
    "RLE too short": ({"counts": [5, 10], "size": SIZE}, "15 pixels in all"),
    "RLE of nothing": ({"counts": [TOTAL], "size": SIZE}, "covers no pixel"),
    "RLE text garbage": ({"counts": "abc", "size": SIZE}, "cut off"),
    "RLE text empty": ({"counts": "", "size": SIZE}, "cut off"),
    "RLE text unknown": ({"counts": "12 ~", "size": SIZE}, "a character that COCO never writes"),
    "RLE bool size": ({"counts": [5, 5], "size": [True, True]}, "the size [True, True]"),
}
"""Segmentations that are none, and words of the message that says so."""

Content = dict[str, Any]
Change = Callable[[Content], Any]


def good(images: int = 4, each: int = 2) -> Content:
    """COCO's instances format, with boxes and masks."""
    rng = np.random.default_rng(0)
    annotations = []
    for image in range(1, images + 1):
        for _ in range(each):
            left, top = int(rng.integers(0, 24)), int(rng.integers(0, 8))
            right, bottom = left + 30, top + 30
            outline = [left, top, right, top, right, bottom, left, bottom]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 7 + len(annotations) % 2,
                    "bbox": [left, top, 30, 30],
                    "area": 900,
                    "iscrowd": 0,
                    "segmentation": [outline],
                }
            )
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT}
            for n in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
    }


def write(root: Path, content: Content | bytes, val: Content | bytes | None = None) -> Path:
    """Write the set below the data root ``root``; gives the folder of its params file.

    Args:
        content: of train, and of val where ``val`` is None; bytes: the JSON file as it is.
    """
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(1, 5):
        path = root / f"images/{number}.png"
        if not path.exists():
            noise = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(noise).save(path)
    for split, found in (("train", content), ("val", content if val is None else val)):
        raw = found if isinstance(found, bytes) else json.dumps(found).encode()
        (root / f"{split}.json").write_bytes(raw)
    return root


def prepare(root: Path, out: str = "out", **params: Any) -> Path:
    """Run the step on what :func:`write` wrote. ``PRETEXT_DATA`` has to be ``root``."""
    splits = {s: {"images": "images", "annotations": f"{s}.json"} for s in ("train", "val")}
    file = root / "set.yaml"
    file.write_text(yaml.safe_dump({"format": "coco", **splits, **params}))
    main(["--dataset", str(file), "--out", str(root / out)])
    return root / out


def changed(change: Change, content: Content | None = None) -> Content:
    """A good set after ``change``, which edits it in place."""
    found = copy.deepcopy(good() if content is None else content)
    change(found)
    return found


def all_boxes(**values: Any) -> Change:
    """Give every annotation these values; ``...`` removes the key."""

    def change(content: Content) -> None:
        for box in content["annotations"]:
            _give(box, values)

    return change


def first_box(**values: Any) -> Change:
    """Give the first annotation these values; ``...`` removes the key."""

    def change(content: Content) -> None:
        _give(content["annotations"][0], values)

    return change


def first(kind: str, **values: Any) -> Change:
    """Give the first of images or categories these values; ``...`` removes the key."""

    def change(content: Content) -> None:
        _give(content[kind][0], values)

    return change


def _give(entry: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if value is ...:
            entry.pop(key, None)
        else:
            entry[key] = value
