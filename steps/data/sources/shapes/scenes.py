"""Scenes: every factor drawn by itself; cues are laid over them afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steps.command import UserError
from steps.data.sources.shapes.outlines import CLASSES, draw_mask
from steps.data.sources.shapes.paint import COLOURS, TEXTURES
from steps.params.dataset import ShapesDataset

EDGE = 1.25
"""A shape's centre keeps so many radii from the image's edges, where there is room."""

_TRIES = 50
Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Shape:
    """One shape. ``centre`` and ``radius`` are in pixels, ``angle`` in radians."""

    name: str
    colour: str
    texture: str
    radius: float
    centre: tuple[float, float]
    angle: float
    stretch: float


@dataclass(frozen=True)
class Scene:
    """All that a caption could tell, and what it leaves to the painter's generator."""

    shapes: tuple[Shape, ...]
    """From back to front."""
    masks: tuple[Mask, ...]
    """What each would cover alone: (side, side), 0 to 255."""
    colour: str
    """Of the background; likewise ``texture``."""
    texture: str
    clutter: int
    strokes: int
    noise: float

    def visible(self) -> list[npt.NDArray[np.bool_]]:
        """The pixels where each shape is in front, ``(side, side)`` each."""
        return _visible(self.masks)


def sample_scene(dataset: ShapesDataset, name: str | None, generator: np.random.Generator) -> Scene:
    """Draw the factors of one image.

    Args:
        dataset: the params.
        name: the class of the only shape; None: several shapes, their classes drawn too.
        generator: the only source of chance.

    Raises:
        UserError: so many shapes of this size do not fit.
    """
    colours = generator.permutation(list(COLOURS))
    colour = str(colours[0])
    texture = str(generator.choice(TEXTURES))
    clutter = int(generator.integers(dataset.clutter[0], dataset.clutter[1] + 1))
    strokes = int(generator.integers(dataset.strokes[0], dataset.strokes[1] + 1))
    noise = float(generator.uniform(0, dataset.noise))
    # A shape never has its background's colour: it would be there and not be seen.
    others = [str(other) for other in colours[1:]]
    if name is not None:
        shape = _sample_shape(dataset, name, others, generator)
        shapes, masks = [shape], [_mask(dataset, shape)]
    else:
        shapes, masks = _place(dataset, others, generator)
    return Scene(tuple(shapes), tuple(masks), colour, texture, clutter, strokes, noise)


def _place(
    dataset: ShapesDataset, colours: list[str], generator: np.random.Generator
) -> tuple[list[Shape], list[Mask]]:
    """Put one shape after another in front, leaving enough of each to be seen."""
    wanted = int(generator.integers(dataset.objects[0], dataset.objects[1] + 1))
    shapes: list[Shape] = []
    masks: list[Mask] = []
    for _ in range(_TRIES):
        if len(shapes) == wanted:
            break
        name = str(generator.choice(CLASSES))
        shape = _sample_shape(dataset, name, colours, generator)
        # Large shapes to the back: there they hide nothing.
        place = sum(other.radius > shape.radius for other in shapes)
        new_shapes = [*shapes[:place], shape, *shapes[place:]]
        new_masks = [*masks[:place], _mask(dataset, shape), *masks[place:]]
        seen = zip(new_shapes, _visible(new_masks), strict=True)
        least = dataset.min_visible * math.pi
        if all(pixels.sum() >= least * other.radius**2 for other, pixels in seen):
            shapes, masks = new_shapes, new_masks
    if len(shapes) < dataset.objects[0]:
        raise UserError(
            "objects",
            f"{dataset.objects[0]} shapes of radii {dataset.radii} do not fit into "
            f"{dataset.image_size} px with min_visible {dataset.min_visible}",
            remedy="make the radii, the fewest objects or min_visible smaller",
        )
    return shapes, masks


def _sample_shape(
    dataset: ShapesDataset, name: str, colours: list[str], generator: np.random.Generator
) -> Shape:
    low, high = dataset.radii[int(generator.integers(len(dataset.radii)))]
    radius = float(generator.uniform(low, high))
    side = dataset.image_size
    margin = min(max(EDGE * radius, side * (0.5 - dataset.spread)), side / 2)
    x, y = generator.uniform(margin, side - margin, size=2)
    return Shape(
        name,
        colour=str(generator.choice(colours)),
        texture=str(generator.choice(TEXTURES)),
        radius=radius,
        centre=(float(x), float(y)),
        angle=math.radians(float(generator.uniform(-dataset.rotation, dataset.rotation))),
        stretch=float(generator.uniform(1 / dataset.stretch, dataset.stretch)),
    )


def _mask(dataset: ShapesDataset, shape: Shape) -> Mask:
    side = dataset.image_size
    return draw_mask(shape.name, side, shape.centre, shape.radius, shape.angle, shape.stretch)


def _visible(masks: list[Mask] | tuple[Mask, ...]) -> list[npt.NDArray[np.bool_]]:
    visible: list[npt.NDArray[np.bool_]] = []
    covered = np.zeros(masks[0].shape, bool)
    for mask in reversed(masks):
        solid = mask >= 128
        visible.insert(0, solid & ~covered)
        covered |= solid
    return visible
