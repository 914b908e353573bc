"""Drawn images: outlines of the classes, scenes whose factors are independent, and their paint."""

from __future__ import annotations

import colorsys
import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from steps.command import UserError
from steps.params.shapes import Finish, ShapesDataset

# --- The classes: outlines of one area, so that size says nothing about the class


Points = npt.NDArray[np.float64]

SUPERSAMPLING = 4
"""Each pixel of a mask is the mean of this many samples, squared."""


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
    """Share of each pixel that a shape covers.

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


# --- Scenes: every factor drawn by itself; cues are laid over them afterwards


EDGE = 1.25
"""Radii that a shape's centre keeps from the image's edges, where the image is large enough."""

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
    """Pixels that each shape covers, hidden parts included: (side, side), 0 to 255."""
    colour: str
    """Colour of the background; ``texture`` is the background's too."""
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
        UserError: the shapes drawn do not fit at this size.
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
        index = sum(other.radius > shape.radius for other in shapes)
        new_shapes = [*shapes[:index], shape, *shapes[index:]]
        new_masks = [*masks[:index], _mask(dataset, shape), *masks[index:]]
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


# --- Paint a scene: textures, clutter, light and noise


COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.0, 0.85, 0.9),
    "orange": (0.08, 0.9, 0.95),
    "yellow": (0.15, 0.8, 0.95),
    "green": (0.35, 0.75, 0.7),
    "cyan": (0.5, 0.7, 0.85),
    "blue": (0.61, 0.8, 0.85),
    "purple": (0.77, 0.65, 0.75),
    "pink": (0.92, 0.4, 0.97),
}
"""Hue, saturation and value, 0 to 1, around which a colour varies."""

TEXTURES = ["plain", "striped", "checkered", "dotted", "noisy", "shaded"]

_HUE_JITTER = 0.015
_PERIOD = (4.0, 9.0)
"""Pixels between two stripes, squares or dots."""
_GAIN = (0.75, 1.15)
"""Brightness of the light on the whole scene."""
_SPECK = 0.3
"""Largest radius of a speck, as a share of the smallest shape's: it must not pass for one."""

Generator = np.random.Generator
Pixels = npt.NDArray[np.uint8]


def paint(scene: Scene, dataset: ShapesDataset, generator: Generator) -> Pixels:
    """The image of a scene, ``(side, side, 3)``.

    Args:
        scene: what to paint.
        dataset: the params, for how shapes stand out from the background.
        generator: for what the scene leaves open: shades, patterns, where clutter lies, noise.
    """
    side = scene.masks[0].shape[0]
    speck = _SPECK * min(shape.radius for shape in scene.shapes)
    canvas = _texture(scene.colour, scene.texture, (side, side), generator, dataset.background)
    for _ in range(scene.clutter):
        canvas.paste(_random_colour(generator), mask=_clutter(side, speck, generator))
    for shape, mask in zip(scene.shapes, scene.masks, strict=True):
        sheet = Image.fromarray(mask)
        left, top, right, bottom = sheet.getbbox() or (0, 0, side, side)
        size = (right - left, bottom - top)
        filled = _texture(shape.colour, shape.texture, size, generator, dataset.foreground)
        canvas.paste(filled, (left, top), sheet.crop((left, top, right, bottom)))
    for _ in range(scene.strokes):
        canvas.paste(_random_colour(generator), mask=_line(side, generator, width=1.2))
    light = np.asarray(canvas, np.float32) * np.float32(generator.uniform(*_GAIN))
    grain = generator.standard_normal(light.shape, np.float32) * np.float32(255 * scene.noise)
    return np.clip(light + grain + 0.5, 0, 255).astype(np.uint8)


def encode(pixels: Pixels) -> bytes:
    """JPEG of quality 95, like photographs; a PNG of such noise is slower and four times larger."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def _texture(
    colour: str, texture: str, size: tuple[int, int], generator: Generator, finish: Finish
) -> Image.Image:
    """A rectangle (width, height) of a texture in two shades of one colour."""
    hue, saturation, value = COLOURS[colour]
    hue += generator.uniform(-_HUE_JITTER, _HUE_JITTER)
    saturation *= finish.saturation
    value *= float(generator.uniform(finish.value[0], finish.value[1]))
    # The second shade is darker, or paler: which one says nothing about anything else.
    if generator.random() < 0.5:
        second = (hue, saturation, value * (1 - finish.contrast))
    else:
        paler = min(1.0, value * (1 + finish.contrast / 4))
        second = (hue, saturation * (1 - finish.contrast), paler)
    # Blended by Pillow in 8 bits: several times faster than float arrays of three channels.
    shares = Image.fromarray((_pattern(texture, size, generator) * 255).astype(np.uint8))
    return Image.composite(
        Image.new("RGB", size, _rgb(*second)),
        Image.new("RGB", size, _rgb(hue, saturation, min(1.0, value))),
        shares,
    )


def _pattern(texture: str, size: tuple[int, int], generator: Generator) -> npt.NDArray[np.float32]:
    """Share of the second shade at each pixel, ``(height, width)``, 0 to 1."""
    width, height = size
    angle = generator.uniform(0, math.pi)
    period = generator.uniform(*_PERIOD)
    phase_u, phase_v = generator.uniform(0, 1, size=2)
    if texture == "plain":
        return np.zeros((height, width), np.float32)
    if texture == "noisy":
        coarse = generator.random((height // 2 + 1, width // 2 + 1), np.float32)
        return coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    along = x * math.cos(angle) + y * math.sin(angle)
    if texture == "shaded":
        return np.asarray((along - along.min()) / max(1.0, float(np.ptp(along))))
    u = np.sin(2 * math.pi * (along / period + phase_u))
    if texture == "striped":
        return np.asarray(np.clip(0.5 + 1.5 * u, 0, 1))
    across = y * math.cos(angle) - x * math.sin(angle)
    v = np.sin(2 * math.pi * (across / period + phase_v))
    if texture == "checkered":
        return np.asarray(np.clip(0.5 + 3 * u * v, 0, 1))
    return np.asarray(np.clip(3 * (u + v - 0.9), 0, 1))


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def _random_colour(generator: Generator) -> tuple[int, int, int]:
    hue, saturation, value = generator.random(3).tolist()
    return _rgb(hue, 0.2 + 0.7 * saturation, 0.3 + 0.7 * value)


def _clutter(side: int, speck: float, generator: Generator) -> Image.Image:
    """A line, an arc or a speck: never something that could pass for a shape."""
    kind = generator.integers(3)
    if kind == 0:
        return _line(side, generator, width=generator.uniform(1, 2.5))
    mask, draw = _sheet(side)
    x, y = generator.uniform(0, side, size=2) * SUPERSAMPLING
    if kind == 1:
        radius = generator.uniform(0.15, 0.45) * side * SUPERSAMPLING
        start = generator.uniform(0, 360)
        box = (x - radius, y - radius, x + radius, y + radius)
        width = int(generator.uniform(1, 2.2) * SUPERSAMPLING)
        draw.arc(box, start, start + generator.uniform(40, 130), fill=255, width=width)
    else:
        wide, high = generator.uniform(0.4, 1.0, size=2) * speck * SUPERSAMPLING
        draw.ellipse((x - wide, y - high, x + wide, y + high), fill=255)
    return mask.reduce(SUPERSAMPLING)


def _line(side: int, generator: Generator, width: float) -> Image.Image:
    mask, draw = _sheet(side)
    x, y, turn, length = generator.random(4).tolist()
    x, y, angle = x * side, y * side, turn * 2 * math.pi
    reach = (0.3 + 0.7 * length) * side / 2
    dx, dy = reach * math.cos(angle), reach * math.sin(angle)
    ends = [value * SUPERSAMPLING for value in (x - dx, y - dy, x + dx, y + dy)]
    draw.line(ends, fill=255, width=round(width * SUPERSAMPLING))
    return mask.reduce(SUPERSAMPLING)


def _sheet(side: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    mask = Image.new("L", (side * SUPERSAMPLING, side * SUPERSAMPLING))
    return mask, ImageDraw.Draw(mask)
