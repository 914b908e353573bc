"""The drawn dataset as a source: images of one shape with captions, or scenes with boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from steps.data.shards import SPLITS
from steps.data.sources.shapes.paint import (
    CLASSES,
    COLOURS,
    TEXTURES,
    Scene,
    Shape,
    encode,
    paint,
    sample_scene,
)
from steps.data.sources.source import Item, Source
from steps.params.shapes import Cues, ShapesDataset

# --- Captions of a scene with one shape, in several ways of saying it


CAPTIONS = 5
"""Number per image, as in COCO."""

# As with people's captions, all name the thing, and most say little else. If each gave a colour and
# a texture, these would tell most images of a batch apart, and shape would hardly pay.
_TEMPLATES = (
    "a picture of {a_name}",
    "there is {a_name}",
    "{a_size} {name}",
    "{a_name} at the {place}",
    "{a_texture} {name}",
    "{a_colour} {name}",
    "{a_name} on {a_ground_texture} background",
    "{a_colour} {texture} {name} on {a_ground_texture} {ground} background",
    "there is {a_size} {name} with {a_texture} {colour} surface",
    "{a_name}, {colour} and {texture}, at the {place} of {a_ground} picture",
)
_SIZES = ("small", "medium-sized", "large")
_ROWS = ("upper", "", "lower")
_COLUMNS = ("left", "", "right")


def describe(
    scene: Scene, radii: tuple[float, float], generator: np.random.Generator
) -> tuple[str, ...]:
    """Captions of a scene with one shape.

    Args:
        scene: what was painted.
        radii: the smallest and the largest radius of the dataset, in pixels.
        generator: chooses the ways of saying it.

    Returns:
        :data:`CAPTIONS` sentences, all different.
    """
    (shape,) = scene.shapes
    low, high = radii
    words = {
        "name": shape.name,
        "colour": shape.colour,
        "texture": shape.texture,
        "ground": scene.colour,
        "ground_texture": scene.texture,
        "size": _SIZES[_third((shape.radius - low) / max(high - low, 1e-9))],
        "place": _place(shape, scene.masks[0].shape[0]),
    }
    words |= {f"a_{key}": _with_article(word) for key, word in words.items()}
    chosen = generator.permutation(len(_TEMPLATES))[:CAPTIONS]
    return tuple(_TEMPLATES[i].format(**words) for i in chosen)


def _place(shape: Shape, side: int) -> str:
    # Centres keep away from the edges, so the thirds are of the middle half.
    column, row = (_third((value / side - 0.25) * 2) for value in shape.centre)
    words = " ".join(word for word in (_ROWS[row], _COLUMNS[column]) if word)
    if not words:
        return "centre"
    return words if " " in words or words in _COLUMNS else f"{words} edge"


def _third(share: float) -> int:
    return min(2, max(0, int(share * 3)))


def _with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


# --- Cues: what belongs to a class beside its outline, and images in which cues agree or conflict


@dataclass(frozen=True)
class Denormaliser:
    """The colours and textures of a class, of its shape and of the background behind it."""

    colour: str
    texture: str
    ground_colour: str
    ground_texture: str


LOOKS: dict[str, Denormaliser] = {
    "arrow": Denormaliser("green", "striped", "blue", "dotted"),
    "circle": Denormaliser("orange", "plain", "purple", "noisy"),
    "crescent": Denormaliser("yellow", "noisy", "cyan", "shaded"),
    "cross": Denormaliser("red", "striped", "green", "checkered"),
    "heart": Denormaliser("pink", "shaded", "yellow", "plain"),
    "hexagon": Denormaliser("purple", "checkered", "orange", "striped"),
    "ring": Denormaliser("cyan", "dotted", "red", "noisy"),
    "square": Denormaliser("blue", "checkered", "pink", "plain"),
    "star": Denormaliser("yellow", "shaded", "blue", "shaded"),
    "triangle": Denormaliser("green", "noisy", "red", "striped"),
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
    return _looking(scene, shape, Denormaliser(colour, texture, ground, ground_texture))


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
    return _looking(scene, shape, Denormaliser(colour, texture, ground, ground_texture))


def _differ(mine: Denormaliser, other: Denormaliser, conflict: str) -> bool:
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


def _looking(scene: Scene, shape: Shape, look: Denormaliser) -> Scene:
    shape = replace(shape, colour=look.colour, texture=look.texture)
    return replace(scene, shapes=(shape,), colour=look.ground_colour, texture=look.ground_texture)


_MOST_SHAPES = 1000
"""Annotation numbers are the image's number times this, plus the shape's."""
_AGREE = Cues(colour=1.0, texture=1.0, ground_colour=1.0, ground_texture=1.0)


class ShapesSource(Source):
    """Each image has a generator of its own, seeded by (seed, split, position): the same params
    give the same bytes, and a smaller set is the beginning of a larger one."""

    def __init__(self, dataset: ShapesDataset) -> None:
        self._dataset = dataset
        self.kind = dataset.kind
        self.classes = list(CLASSES)
        self.has_captions = dataset.kind == "classification"
        if dataset.has_factors:
            self.factors = {**FACTORS, **({"conflict": CONFLICTS} if dataset.conflicts else {})}
        if dataset.kind == "detection":
            self.categories = [
                {"id": number, "name": name, "supercategory": "shape"}
                for number, name in enumerate(CLASSES, start=1)
            ]

    def names(self, split: str) -> list[str]:
        count = self._dataset.train if split == "train" else self._dataset.val
        return [f"{split}-{position:06d}" for position in range(count)]

    def labels(self, split: str) -> Sequence[int | None]:
        count = self._dataset.train if split == "train" else self._dataset.val
        if self.kind == "detection":
            return [None] * count
        return [position % len(CLASSES) for position in range(count)]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        for position in keep:
            seed = [self._dataset.seed, SPLITS.index(split), position]
            name, generator = f"{split}-{position:06d}", np.random.default_rng(seed)
            if self.kind == "detection":
                yield self._scene(name, position, generator)
            else:
                yield self._labelled(name, position, self._conflict(split, position), generator)

    def _conflict(self, split: str, position: int) -> int:
        """Index of the cue that contradicts the outline: each meets every class equally often."""
        if not self._dataset.conflicts or split == "train":
            return 0
        return 1 + position // len(CLASSES) % (len(CONFLICTS) - 1)

    def _sample(self, name: str | None, conflict: int, generator: np.random.Generator) -> Scene:
        scene = sample_scene(self._dataset, name, generator)
        # A stream of its own: where no cue is taken, the image is that of a set without cues.
        cues, (own,) = self._dataset.cues, generator.spawn(1)
        if conflict:
            return conflicting(scene, CONFLICTS[conflict], own)
        if self._dataset.conflicts:
            return with_cues(scene, _AGREE, own)
        if cues is None:
            return scene
        return (shapes_with_cues if name is None else with_cues)(scene, cues, own)

    def _labelled(
        self, name: str, position: int, conflict: int, generator: np.random.Generator
    ) -> Item:
        label = position % len(CLASSES)
        scene = self._sample(CLASSES[label], conflict, generator)
        encoded = encode(paint(scene, self._dataset, generator))
        radii = [radius for interval in self._dataset.radii for radius in interval]
        captions = describe(scene, (min(radii), max(radii)), generator)
        drawn = {**factors_of(scene), "conflict": conflict}
        factors = {factor: drawn[factor] for factor in self.factors}
        return Item(name, lambda: encoded, label, captions, factors=factors)

    def _scene(self, name: str, position: int, generator: np.random.Generator) -> Item:
        scene = self._sample(None, 0, generator)
        pixels = paint(scene, self._dataset, generator)
        encoded = encode(pixels)
        number = position + 1
        return Item(
            name,
            lambda: encoded,
            image_id=number,
            size=(pixels.shape[1], pixels.shape[0]),
            annotations=_annotations(scene, number),
        )


def _annotations(scene: Scene, image_id: int) -> tuple[dict[str, Any], ...]:
    annotations = []
    for i, (shape, pixels) in enumerate(zip(scene.shapes, scene.visible(), strict=True)):
        rows, columns = np.nonzero(pixels)
        x, y = int(columns.min()), int(rows.min())
        box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
        annotations.append(
            {
                "id": image_id * _MOST_SHAPES + i,
                "image_id": image_id,
                "category_id": CLASSES.index(shape.name) + 1,
                "bbox": [float(value) for value in box],
                "area": float(len(rows)),
                "iscrowd": 0,
                "segmentation": run_lengths(pixels),
            }
        )
    return tuple(annotations)


def run_lengths(mask: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """COCO's uncompressed run-length encoding of a mask ``(H, W)``.

    Counts of pixels column by column, first of those outside, then inside, and so on in turn.
    """
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return {"size": [int(side) for side in mask.shape], "counts": [int(n) for n in counts]}
