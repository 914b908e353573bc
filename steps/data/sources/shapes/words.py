"""Captions of a scene with one shape, in several ways of saying it."""

from __future__ import annotations

import numpy as np

from steps.data.sources.shapes.scenes import Scene, Shape

CAPTIONS = 5
"""How many each image has, as in COCO."""

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
