"""Paint a scene: textures, clutter, light and noise."""

from __future__ import annotations

import colorsys
import io
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from steps.data.sources.shapes.outlines import SUPERSAMPLING
from steps.params.dataset import Finish, ShapesDataset

if TYPE_CHECKING:
    from steps.data.sources.shapes.scenes import Scene


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
"""Of the light on the whole scene."""
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
