"""The classes: outlines of one area, so that size says nothing about the class."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Points = npt.NDArray[np.float64]

SUPERSAMPLING = 4
"""Each pixel of a mask is the mean of so many squared."""


def _arc(radius: float, start: float, end: float, centre: float = 0.0, count: int = 48) -> Points:
    """Points of an arc in radians around (``centre``, 0)."""
    angles = np.linspace(start, end, count)
    return np.stack([centre + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _spokes(radii: list[float]) -> Points:
    """Points at these radii, evenly turned, the first upwards."""
    angles = np.arange(len(radii)) * 2 * math.pi / len(radii) - math.pi / 2
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.asarray(np.array(radii)[:, None] * directions)


def _heart() -> Points:
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _crescent(inner: float = 0.82, shift: float = 0.5) -> Points:
    """A unit disc less a disc of radius ``inner`` around (``shift``, 0)."""
    x = (1 - inner**2 + shift**2) / (2 * shift)
    y = math.sqrt(1 - x**2)
    outer_end, inner_end = math.atan2(y, x), math.atan2(y, x - shift)
    outside = _arc(1, outer_end, 2 * math.pi - outer_end)
    inside = _arc(inner, 2 * math.pi - inner_end, inner_end, centre=shift)
    return np.concatenate([outside, inside])


def _cross(arm: float = 0.36) -> Points:
    quarter = np.array([[arm, -1], [arm, -arm], [1, -arm]])
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return np.concatenate([quarter @ turn.T for turn in turns])


_ARROW = np.array(
    [[-1.0, -0.28], [0.1, -0.28], [0.1, -0.8], [1.0, 0.0], [0.1, 0.8], [0.1, 0.28], [-1.0, 0.28]]
)


def _area(points: Points) -> float:
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _normalised(*polygons: Points) -> list[Points]:
    """Centre on the bounding box and scale to the area of the unit disc, holes not counted."""
    outer = polygons[0]
    centre = (outer.min(axis=0) + outer.max(axis=0)) / 2
    area = _area(outer) - sum(_area(hole) for hole in polygons[1:])
    return [(polygon - centre) * math.sqrt(math.pi / area) for polygon in polygons]


_CIRCLE = _arc(1, 0, 2 * math.pi)

OUTLINES: dict[str, list[Points]] = {
    "arrow": _normalised(_ARROW),
    "circle": _normalised(_CIRCLE),
    "crescent": _normalised(_crescent()),
    "cross": _normalised(_cross()),
    "heart": _normalised(_heart()),
    "hexagon": _normalised(_spokes([1.0] * 6)),
    "ring": _normalised(_CIRCLE, 0.58 * _CIRCLE),
    "square": _normalised(_spokes([1.0] * 4)),
    "star": _normalised(_spokes([1.0, 0.45] * 5)),
    "triangle": _normalised(_spokes([1.0] * 3)),
}
"""Class name: the outline and then its holes, as points (x to the right, y down). Area: pi."""

CLASSES = list(OUTLINES)


def draw_mask(
    name: str, side: int, centre: tuple[float, float], radius: float, angle: float, stretch: float
) -> npt.NDArray[np.uint8]:
    """How much of each pixel a shape covers.

    Args:
        name: one of :data:`CLASSES`.
        side: of the square image, in pixels.
        centre: x and y in pixels.
        radius: in pixels, of the disc of the shape's area.
        angle: of rotation, in radians.
        stretch: ratio of the two axes; the area stays.

    Returns:
        ``(side, side)``, 0 to 255.
    """
    longer = math.sqrt(stretch)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([longer, 1 / longer])
    mask = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING))
    draw = ImageDraw.Draw(mask)
    for i, polygon in enumerate(OUTLINES[name]):
        points = (polygon @ turn.T * radius + np.array(centre)) * SUPERSAMPLING
        draw.polygon([(float(x), float(y)) for x, y in points], fill=0 if i else 255)
    return np.asarray(mask.reduce(SUPERSAMPLING))
