"""Cues: what belongs to a class beside its outline, and images in which cues agree or conflict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from steps.data.sources.shapes.outlines import CLASSES
from steps.data.sources.shapes.paint import COLOURS, TEXTURES
from steps.data.sources.shapes.scenes import Scene, Shape
from steps.params.dataset import Cues


@dataclass(frozen=True)
class Look:
    """The colours and textures of a class, of its shape and of the background behind it."""

    colour: str
    texture: str
    ground_colour: str
    ground_texture: str


LOOKS: dict[str, Look] = {
    "arrow": Look("green", "striped", "blue", "dotted"),
    "circle": Look("orange", "plain", "purple", "noisy"),
    "crescent": Look("yellow", "noisy", "cyan", "shaded"),
    "cross": Look("red", "striped", "green", "checkered"),
    "heart": Look("pink", "shaded", "yellow", "plain"),
    "hexagon": Look("purple", "checkered", "orange", "striped"),
    "ring": Look("cyan", "dotted", "red", "noisy"),
    "square": Look("blue", "checkered", "pink", "plain"),
    "star": Look("yellow", "shaded", "blue", "shaded"),
    "triangle": Look("green", "noisy", "red", "striped"),
}
"""The look of each class. With eight colours and six textures some are shared by two classes; a
pair of colour and texture is of one class, of shapes and of grounds. A shape never has its ground's
colour."""

CONFLICTS = ("none", "texture", "colour", "ground")
"""Which cue contradicts the outline in an image."""

FACTORS: dict[str, Sequence[str]] = {
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "ground_colour": tuple(COLOURS),
    "ground_texture": TEXTURES,
}
"""The values of each factor that an image of one shape has beside its class, in order."""


def factors_of(scene: Scene) -> dict[str, int]:
    """Values of the factors of an image of one shape, as indices: by factor."""
    (shape,) = scene.shapes
    drawn = {
        "colour": shape.colour,
        "texture": shape.texture,
        "ground_colour": scene.colour,
        "ground_texture": scene.texture,
    }
    return {name: FACTORS[name].index(value) for name, value in drawn.items()}


def with_cues(scene: Scene, cues: Cues, generator: np.random.Generator) -> Scene:
    """An image of one shape in which each cue is of the shape's class, with its probability.

    Args:
        scene: drawn freely; where all probabilities are 0, it is returned as it is.
        cues: the probabilities.
        generator: the only source of chance.

    Returns:
        The scene. A shape never has its ground's colour: of the two, the one that was drawn freely
        gives way.
    """
    (shape,) = scene.shapes
    look = LOOKS[shape.name]
    takes = {name: bool(generator.random() < getattr(cues, name)) for name in FACTORS}
    colour = look.colour if takes["colour"] else shape.colour
    ground = look.ground_colour if takes["ground_colour"] else scene.colour
    if takes["ground_colour"] and not takes["colour"]:
        colour = _spared(colour, FACTORS["colour"], [ground], generator)
    else:
        ground = _spared(ground, FACTORS["ground_colour"], [colour], generator)
    texture = look.texture if takes["texture"] else shape.texture
    ground_texture = look.ground_texture if takes["ground_texture"] else scene.texture
    return _looking(scene, shape, Look(colour, texture, ground, ground_texture))


def shapes_with_cues(scene: Scene, cues: Cues, generator: np.random.Generator) -> Scene:
    """A scene in which each shape's own cues are of its class, with their probabilities.

    Args:
        scene: of any number of shapes, drawn freely.
        cues: the probabilities; the ground stays as it was drawn.
        generator: the only source of chance.

    Returns:
        The scene. A shape whose class has the ground's colour keeps the colour that was drawn.
    """
    shapes = []
    for shape in scene.shapes:
        look = LOOKS[shape.name]
        takes_colour, takes_texture = generator.random(2) < (cues.colour, cues.texture)
        if takes_colour and look.colour != scene.colour:
            shape = replace(shape, colour=look.colour)
        if takes_texture:
            shape = replace(shape, texture=look.texture)
        shapes.append(shape)
    return replace(scene, shapes=tuple(shapes))


def conflicting(scene: Scene, conflict: str, generator: np.random.Generator) -> Scene:
    """A scene of one shape in which one cue is of another class than the outline.

    Args:
        scene: drawn freely.
        conflict: the cue: "texture", "colour" or "ground", which is its colour and its texture.
        generator: chooses the other class among those whose cue differs.

    Returns:
        The scene. All other cues are as drawn freely among those of neither class.
    """
    (shape,) = scene.shapes
    mine = LOOKS[shape.name]
    others = [LOOKS[name] for name in CLASSES if _differ(mine, LOOKS[name], conflict)]
    rival = others[int(generator.integers(len(others)))]
    if conflict == "ground":
        ground, ground_texture = rival.ground_colour, rival.ground_texture
    else:
        ground = _spared(
            scene.colour,
            FACTORS["colour"],
            [mine.ground_colour, rival.ground_colour, *[rival.colour] * (conflict == "colour")],
            generator,
        )
        ground_texture = _spared(
            scene.texture, TEXTURES, [mine.ground_texture, rival.ground_texture], generator
        )
    colour, texture = rival.colour, rival.texture
    if conflict != "colour":
        colour = _spared(
            shape.colour, FACTORS["colour"], [mine.colour, rival.colour, ground], generator
        )
    if conflict != "texture":
        texture = _spared(shape.texture, TEXTURES, [mine.texture, rival.texture], generator)
    return _looking(scene, shape, Look(colour, texture, ground, ground_texture))


def _differ(mine: Look, other: Look, conflict: str) -> bool:
    """True if two classes have nothing of the cue in common."""
    names = ("ground_colour", "ground_texture") if conflict == "ground" else (conflict,)
    return all(getattr(mine, name) != getattr(other, name) for name in names)


def _spared(
    drawn: str, values: Sequence[str], taken: Sequence[str], generator: np.random.Generator
) -> str:
    """The value that was drawn; where it is taken, another, each of the rest as likely."""
    if drawn not in taken:
        return drawn
    return str(generator.choice([value for value in values if value not in taken]))


def _looking(scene: Scene, shape: Shape, look: Look) -> Scene:
    shape = replace(shape, colour=look.colour, texture=look.texture)
    return replace(scene, shapes=(shape,), colour=look.ground_colour, texture=look.ground_texture)
