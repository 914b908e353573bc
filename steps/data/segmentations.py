"""COCO's ``segmentation``: polygons or run lengths, checked in Python before C code reads them.

pycocotools checks little: a coordinate of NaN or 1e300 makes it write outside its memory, and a
``size`` makes it take as much memory as the file says.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from steps.data.values import shown, whole

Mask = npt.NDArray[np.uint8]
"""(height, width) of 0 and 1."""
Runs = dict[str, Any]
"""A mask as pycocotools has it: ``size`` [height, width] and compressed ``counts``."""

_FEWEST = 6
"""Numbers of a polygon: pycocotools takes four for a box."""
_LONGEST = 100
"""A polygon's outline over that of its image: pycocotools takes memory for each pixel of it."""
_BITS, _SIGN, _MORE = 5, 0x10, 0x20
_FIRST_CHARACTER, _LAST_CHARACTER = 48, 111
_MOST_CHARACTERS = 7
"""For each run length: 35 bits, where pycocotools has 32."""


@functools.cache
def _rle() -> Any:
    """pycocotools' masks, which a set of another kind does without."""
    from pycocotools import mask

    return mask


class SegmentationError(ValueError):
    """Fault of a segmentation, in words that follow its annotation's name."""


def given(segmentation: Any) -> bool:
    """True if there is one: exporters of boxes leave the key out, or write null or []."""
    return segmentation is not None and segmentation != []


def run_lengths(segmentation: Any, height: int, width: int) -> Runs:
    """A segmentation of an image of this size as run lengths.

    Args:
        segmentation: a list of polygons [x, y, x, y, ...], or ``size`` and ``counts``, which are a
            list of numbers or COCO's compressed text.
        height, width: of the image, whose size run lengths have to state.

    Raises:
        SegmentationError: it is none, or not of this image.
    """
    if isinstance(segmentation, list):
        polygons = [_polygon(part, height, width) for part in segmentation]
        if not polygons:
            raise SegmentationError("its mask has no polygon")
        merged: Runs = _rle().merge(_rle().frPyObjects(polygons, height, width))
        return merged
    if isinstance(segmentation, dict):
        return _counted(segmentation, height, width)
    raise SegmentationError(
        f"its segmentation is {shown(segmentation)}, neither polygons nor run lengths"
    )


def bitmap(segmentation: Any, height: int, width: int) -> Mask:
    """(height, width) of 0 and 1; arguments and errors as of :func:`run_lengths`."""
    decoded: Mask = _rle().decode(run_lengths(segmentation, height, width))
    return decoded


def pixels(runs: Runs) -> int:
    """Number of pixels that a mask covers."""
    return int(_rle().area(runs))


def bounds(runs: Runs) -> tuple[float, float, float, float]:
    """The box [x, y, width, height] around a mask's pixels."""
    x, y, width, height = (float(value) for value in _rle().toBbox(runs))
    return x, y, width, height


def _polygon(part: Any, height: int, width: int) -> list[float]:
    if not isinstance(part, list):
        raise SegmentationError(
            f"its segmentation holds {shown(part)}, and not lists of polygons' coordinates"
        )
    if len(part) < _FEWEST or len(part) % 2:
        raise SegmentationError(
            f"its mask has a polygon of {len(part)} numbers, not an even count from {_FEWEST} on"
        )
    if not all(type(value) in (int, float) for value in part):
        wrong = next(value for value in part if type(value) not in (int, float))
        raise SegmentationError(f"its mask has a polygon with {shown(wrong)}, no number")
    try:
        points = np.array(part, np.float64).reshape(-1, 2)
    except OverflowError:
        raise SegmentationError("its mask has a polygon with a number beyond any image") from None
    if not np.isfinite(points).all():
        raise SegmentationError("its mask has a polygon with a number that is not finite")
    size = np.array([width, height])
    # A point beyond the edge is cut off, as COCO does; one an image away is a mistake, and would
    # cost memory for each pixel of the way.
    if (points < -size).any() or (points > 2 * size).any():
        far = points[((points < -size) | (points > 2 * size)).any(axis=1)][0]
        raise SegmentationError(
            f"its mask has the point [{far[0]:g}, {far[1]:g}], far outside its image of "
            f"{width}x{height}"
        )
    outline = np.abs(points - np.roll(points, -1, axis=0)).max(axis=1).sum()
    if outline > _LONGEST * 2 * (height + width):
        raise SegmentationError(
            f"its mask has a polygon with an outline of {outline:.3g} pixels, longer than "
            f"{_LONGEST} times around its image of {width}x{height}"
        )
    flat: list[float] = points.ravel().tolist()
    return flat


def _counted(segmentation: dict[str, Any], height: int, width: int) -> Runs:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or [whole(side) for side in size] != [height, width]:
        raise SegmentationError(
            f"its mask has the size {shown(size)}, and its image is of height and width "
            f"[{height}, {width}]"
        )
    if isinstance(counts, str):
        lengths = _decompressed(counts)
    elif isinstance(counts, list):
        lengths = np.array([_length(value) for value in counts], np.int64)
    else:
        raise SegmentationError(f"its mask has counts of {shown(counts)}, neither a list nor text")
    total = height * width
    wrong = lengths[(lengths < 0) | (lengths > total)]
    if len(wrong) or lengths.sum() != total:
        found = f"the run length {wrong[0]}" if len(wrong) else f"{lengths.sum()} pixels in all"
        raise SegmentationError(f"its mask has {found}, and its image has {total} pixels")
    exact = {"size": [height, width], "counts": lengths.tolist()}
    runs: Runs = _rle().frPyObjects(exact, height, width)
    return runs


def _length(value: Any) -> int:
    number = whole(value)
    if number is None:
        raise SegmentationError(f"its mask has the run length {shown(value)}")
    return number


def _decompressed(text: str) -> npt.NDArray[np.int64]:
    """Run lengths of COCO's compressed text.

    A character holds five bits, low ones first, a sixth that says that more follow, and is moved
    by 48; from the fourth number on each is the difference from the last but one.
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64)
    except UnicodeEncodeError:
        codes = np.zeros(1, np.int64)
    if ((codes < _FIRST_CHARACTER) | (codes > _LAST_CHARACTER)).any():
        raise SegmentationError("its mask has counts with a character that COCO never writes")
    values = codes - _FIRST_CHARACTER
    ends = np.flatnonzero((values & _MORE) == 0)
    if not len(values) or not len(ends) or ends[-1] != len(values) - 1:
        raise SegmentationError("its mask has counts that are cut off")
    starts = np.concatenate([[0], ends[:-1] + 1])
    characters = ends - starts + 1
    if characters.max() > _MOST_CHARACTERS:
        raise SegmentationError("its mask has a run length beyond any image")
    digit = np.arange(len(values)) - np.repeat(starts, characters)
    numbers = np.add.reduceat((values & (_MORE - 1)) << (_BITS * digit), starts)
    negative = (values[ends] & _SIGN) > 0
    numbers[negative] -= np.int64(1) << (_BITS * characters[negative])
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
