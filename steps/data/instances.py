"""Boxes and masks on their way into a prepared set: each checked, counted, numbered from 1."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steps.command import UserError
from steps.data.annotations import large_enough
from steps.data.checks import Tally
from steps.data.names import escaped
from steps.data.segmentations import SegmentationError, bounds, given, pixels, run_lengths
from steps.data.sources import Item, Problem
from steps.data.values import number, shown, whole

BOX_SLACK = 1.0
"""Pixels by which a box may pass its image's edge: annotation files round (COCO's own do)."""
NO_USE_SHARE = 0.05
"""Largest share of no use in a split's annotations; above it a set is taken for misread."""

_log = logging.getLogger(__name__)
_SHARE_OF_ONE = 1.001
"""The largest number of boxes that are shares of their image's sides, plus rounding."""
_COMPARED = 8.0
"""Pixels of a box's shorter side from which on it is compared with its mask, as all are rounded."""
_AREA_BY_MASK = "area missing or not above 0: counted from the mask"
_AREA_BY_BOX = "area missing or not above 0: taken from the box"
_CROWD_MISSING = "iscrowd missing: taken as 0"
_MASK_LEFT_OUT = "mask left out, as masks: false says"
_ID_MISSING = "id missing, or no whole number above 0: all are numbered from 1"
_ID_TWICE = "id that another annotation has: all are numbered from 1"
_OBJECT_TWICE = "same image, category and box as another annotation"
_UNLIKE = "box and the bounds of its mask overlap by less than half (is it [x, y, width, height]?)"
_NARROW = "box or mask smaller than a pixel: no target of training"


@dataclass(frozen=True)
class Checked:
    """An annotation that may stay."""

    kept: dict[str, Any]
    """COCO's keys, without the id."""
    masked: bool
    """True if a mask is there, kept or left out."""
    useful: bool
    """True if it can be a target: a pixel wide and high, and so its mask."""
    notes: tuple[str, ...] = ()
    """Names of what was missing and is now there, or was there and is left out."""


def check_annotation(
    annotation: Mapping[str, Any],
    width: int,
    height: int,
    categories: Collection[int],
    masks: bool = True,
) -> Checked | str:
    """Check a COCO annotation, and fill in what tools leave out.

    Args:
        annotation: COCO's object; ``bbox`` is [x, y, width, height] in pixels.
        width, height: of its image, in pixels.
        categories: the numbers that ``category_id`` may be.
        masks: decode the mask where there is one; else it is left out.

    Returns:
        The annotation, or what is wrong with it.
    """
    missing = [key for key in ("category_id", "bbox") if key not in annotation]
    if missing:
        return f"no key '{missing[0]}'"
    category = whole(annotation["category_id"])
    if category is None or category not in categories:
        return f"category_id {shown(annotation['category_id'])} is not among the categories"
    problem = _wrong_box(annotation["bbox"], width, height)
    if problem is not None:
        return problem
    notes = []
    crowd = annotation.get("iscrowd")
    if crowd is None:
        notes.append(_CROWD_MISSING)
    elif isinstance(crowd, bool) or not isinstance(crowd, int | float) or crowd not in (0, 1):
        return f"iscrowd {shown(crowd)} is neither 0 nor 1"
    area = annotation.get("area")
    stated = 0.0 if area is None else number(area)
    if stated is None or stated > (width + 2 * BOX_SLACK) * (height + 2 * BOX_SLACK):
        return f"area {shown(area)} is no number of pixels that its image of {width}x{height} has"
    box = annotation["bbox"]
    segmentation = annotation.get("segmentation")
    masked, covered = given(segmentation), None
    if masked and masks:
        try:
            covered, alike = _covered(segmentation, box, width, height)
        except SegmentationError as error:
            return str(error)
        notes += [] if alike else [_UNLIKE]
    elif masked:
        notes.append(_MASK_LEFT_OUT)
    if stated <= 0:
        notes.append(_AREA_BY_MASK if covered else _AREA_BY_BOX)
        area = float(covered or box[2] * box[3])
    kept = {
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": 0 if crowd is None else int(crowd),
    }
    if covered is not None:
        kept["segmentation"] = _plain(segmentation)
    useful = large_enough(kept) and covered != 0
    return Checked(kept, masked, useful, (*notes, *(() if useful else (_NARROW,))))


def _wrong_box(box: Any, width: int, height: int) -> str | None:
    numbers = _numbers(box)
    if numbers is None:
        return f"box {shown(box)} is not four numbers"
    x, y, box_width, box_height = numbers
    if box_width <= 0 or box_height <= 0:
        return f"box {shown(box)} has no area"
    right, bottom = x + box_width, y + box_height
    low = -BOX_SLACK
    if x < low or y < low or right > width + BOX_SLACK or bottom > height + BOX_SLACK:
        return f"box {shown(box)} is outside its image of {width}x{height}"
    return None


def _numbers(box: Any) -> list[float] | None:
    if not isinstance(box, list) or len(box) != 4:
        return None
    numbers = [found for found in map(number, box) if found is not None]
    return numbers if len(numbers) == 4 else None


def _covered(segmentation: Any, box: Sequence[float], width: int, height: int) -> tuple[int, bool]:
    """Number of pixels that a mask covers, and True if they fill its box.

    A polygon between the centres of pixels covers none.

    Raises:
        SegmentationError: the mask is none, or outside its image.
    """
    runs = run_lengths(segmentation, height, width)
    covered = pixels(runs)
    if covered == 0:
        if isinstance(segmentation, list) and any(
            0 <= x <= width and 0 <= y <= height
            for part in segmentation
            for x, y in zip(part[::2], part[1::2], strict=True)
        ):
            return 0, True
        raise SegmentationError("its mask covers no pixel of its image")
    around = bounds(runs)
    shared = [
        min(box[axis] + box[axis + 2], around[axis] + around[axis + 2])
        - max(box[axis], around[axis])
        for axis in (0, 1)
    ]
    both = max(shared[0], 0.0) * max(shared[1], 0.0)
    either = box[2] * box[3] + around[2] * around[3] - both
    return covered, min(box[2:]) < _COMPARED or both >= 0.5 * either


def _plain(segmentation: Any) -> Any:
    """A segmentation that was found good, with whole numbers as such and only COCO's keys."""
    if isinstance(segmentation, list):
        return segmentation
    return {
        key: value if isinstance(value, str) else [int(number) for number in value]
        for key, value in segmentation.items()
        if key in ("size", "counts")
    }


@dataclass
class _Count:
    annotations: int
    first: str


@dataclass
class Instances:
    """A split's images and annotations, gathered for its JSON file."""

    split: str
    categories: Sequence[dict[str, Any]]
    """COCO's, in the order of the classes."""
    masks: bool
    """True if every annotation needs a mask; else masks are left out."""
    tally: Tally
    """Gets what is wrong."""
    strays: Sequence[Problem] = ()
    """Faults that the reader found, annotations without an image among them."""

    _images: list[dict[str, Any]] = field(default_factory=list)
    _annotations: list[dict[str, Any]] = field(default_factory=list)
    _unmasked: dict[int, str] = field(default_factory=dict)
    """Names of the annotations without a mask, by index."""
    _notes: dict[str, _Count] = field(default_factory=dict)
    _ids: set[int] = field(default_factory=set)
    _seen: int = 0
    _useful: int = 0
    _objects: int = 0
    """Useful ones that are no crowds."""
    _largest: float = 0.0
    """Largest magnitude among the numbers of boxes."""

    def add(self, item: Item, width: int, height: int) -> None:
        """Take an image of this size and those of its annotations that are good."""
        size = {"width": width, "height": height}
        self._images.append({"id": item.image_id, "file_name": item.id, **size})
        known = {category["id"] for category in self.categories}
        objects = set()
        for annotation in item.annotations:
            name = f"annotation {shown(annotation.get('id'))} of {escaped(item.id)}"
            self._seen += 1
            self.tally.seen(self.split)
            if (box := _numbers(annotation.get("bbox"))) is not None:
                self._largest = max(self._largest, *map(abs, box))
            found = check_annotation(annotation, width, height, known, self.masks)
            if isinstance(found, str):
                self.tally.bad(self.split, name, found)
                continue
            kept = found.kept
            same = (kept["category_id"], *kept["bbox"], kept["iscrowd"])
            twice = (_OBJECT_TWICE,) if same in objects else ()
            objects.add(same)
            for note in (*found.notes, *twice, *self._wrong_id(annotation)):
                self._notes.setdefault(note, _Count(0, name)).annotations += 1
            if not found.masked:
                self._unmasked[len(self._annotations)] = name
            self._annotations.append({"image_id": item.image_id, **kept})
            self._useful += found.useful
            self._objects += found.useful and not kept["iscrowd"]

    def _wrong_id(self, annotation: Mapping[str, Any]) -> tuple[str, ...]:
        found = whole(annotation.get("id"))
        if found is None or found < 1:
            return (_ID_MISSING,)
        twice = found in self._ids
        self._ids.add(found)
        return (_ID_TWICE,) if twice else ()

    def settle(self, where: str) -> None:
        """Stop where all annotations have one fault; name those that have no mask.

        Args:
            where: the dataset's params file.

        Raises:
            UserError: boxes are shares of the image's sides, or no annotation has a mask and the
                params do not say so.
        """
        count = len(self._annotations)
        if self._seen and 0 < self._largest <= _SHARE_OF_ONE:
            raise UserError(
                where,
                f"all boxes of split {self.split} lie within one pixel, as if they were shares of "
                "their image's width and height",
                allowed="[x, y, width, height] in pixels",
                remedy="multiply them by the image's width and height",
            )
        if not self.masks:
            return
        if count and len(self._unmasked) == count:
            raise UserError(
                where,
                f"split {self.split} has boxes alone: none of its {count} annotations has a mask "
                "(segmentation)",
                remedy="say masks: false in this file, and detect trains a detector without mask "
                "head; the tasks segment and layout need masks",
            )
        for name in self._unmasked.values():
            problem = "no mask, and others have one (masks: false leaves all masks out)"
            self.tally.bad(self.split, name, problem)
        lost = [self._annotations[index] for index in self._unmasked]
        self._useful -= sum(large_enough(box) for box in lost)
        self._objects -= sum(large_enough(box) and not box["iscrowd"] for box in lost)
        self._annotations = [
            box for index, box in enumerate(self._annotations) if index not in self._unmasked
        ]

    def enforce(self, where: str) -> None:
        """Stop where too little is of use, whatever share of bad items the params allow.

        Raises:
            UserError: more than ``NO_USE_SHARE`` of the annotations, or no object is left.
        """
        strays = sum(stray.item.startswith("annotation") for stray in self.strays)
        seen = self._seen + strays
        useless = seen - self._useful
        if useless > NO_USE_SHARE * seen:
            examples = [
                f"{problem.item}: {problem.problem}"
                for problem in self.tally.problems
                if problem.split == self.split
            ][:1]
            if narrow := self._notes.get(_NARROW):
                examples.append(f"{narrow.annotations} have a {_NARROW}, first {narrow.first}")
            raise UserError(
                where,
                f"{useless} of {seen} annotations of split {self.split} are of no use; "
                + "; ".join(examples),
                allowed=f"{NO_USE_SHARE:.0%}, whatever max_bad_share is: more is a file misread, "
                "not a few bad items",
                remedy="correct the annotation file",
            )
        if not self._objects:
            crowds = ", and crowds are none" if self._annotations else ""
            raise UserError(
                where,
                f"split {self.split} has {len(self._images)} images without any object{crowds}",
                allowed="objects in train, to learn from, and in val, to be found",
                remedy=f"correct {self.split}.annotations, or raise limit.{self.split}",
            )

    def facts(self) -> dict[str, int]:
        """Number of annotations."""
        return {"boxes": len(self._annotations)}

    def notes(self) -> list[dict[str, Any]]:
        """Notes on what was changed or is odd: text, number of annotations, the first of them."""
        return [
            {"split": self.split, "note": note, **vars(count)}
            for note, count in self._notes.items()
        ]

    def write(self, path: Path) -> None:
        """Write COCO's instances format; annotations are numbered from 1.

        pycocotools takes the number 0 for none, and of two with one number forgets the first.
        """
        numbered = [{"id": n, **box} for n, box in enumerate(self._annotations, start=1)]
        content = {
            "info": {"description": "prepared by Pretext"},
            "images": self._images,
            "annotations": numbered,
            "categories": list(self.categories),
        }
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        path.write_text(text, encoding="utf-8")


def say(notes: Sequence[Mapping[str, Any]]) -> None:
    """Log what was changed or is odd."""
    for note in notes:
        _log.warning(
            "%s: %d annotations: %s (first: %s)",
            *(note["split"], note["annotations"], note["note"], note["first"]),
        )
