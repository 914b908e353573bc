"""Params of drawn images: shapes on a ground, alone or in scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len
from pydantic import (
    model_validator,
)

from steps.params.base import Params, Probability
from steps.params.sets import Count, DatasetParams, Pixels


class Finish(Params):
    """Variation of a named colour when it is painted. A texture has two shades of it."""

    saturation: Annotated[float, Gt(0), Le(1)]
    """Factor on the colour's saturation."""
    value: Annotated[list[Annotated[float, Gt(0)]], Len(2, 2)]
    """[low, high] of the factor on the colour's value (brightness)."""
    contrast: Annotated[float, Ge(0), Le(1)]
    """Difference of the texture's second shade, which is darker or paler."""


class Cues(Params):
    """Probabilities with which an image shows its class by more than its outline.

    Otherwise the factor is drawn freely, as without cues. A table in
    ``steps/data/sources/shapes/reader.py`` has the colours and textures of each class.
    """

    colour: Probability = 0.0
    """Probability that a shape has its class's colour."""
    texture: Probability = 0.0
    """Probability that a shape has its class's texture."""
    ground_colour: Probability = 0.0
    """Probability that the background has the colour of its shape's class. Not for kind detection,
    in which one background is behind shapes of several classes."""
    ground_texture: Probability = 0.0
    """Probability that the background has the texture of its shape's class; only as above."""


class ShapesDataset(DatasetParams):
    """Drawn images of textured shapes over cluttered backgrounds. The outline always shows the
    class; every other factor is independent of the class unless ``cues`` says otherwise."""

    format: Literal["shapes"]
    kind: Literal["classification", "detection"]
    seed: Annotated[int, Ge(0)]
    image_size: Annotated[int, Ge(16)]
    train: Count
    val: Count
    objects: Annotated[list[Count], Len(2, 2)]
    """[fewest, most] shapes in an image."""
    radii: Annotated[list[Annotated[list[Pixels], Len(2, 2)]], Len(1)]
    """Intervals [low, high] in pixels, equally likely, of the radius of a disc with the shape's
    area."""
    spread: Annotated[float, Ge(0), Le(0.5)] = 0.5
    """Largest distance of a shape's centre from the image's centre along each axis, as a share of
    the image's side; 0.5: anywhere."""
    rotation: Annotated[float, Ge(0), Le(180)] = 180.0
    """Largest rotation of a shape in degrees; it is uniform between minus and plus this."""
    stretch: Annotated[float, Ge(1)] = 1.2
    """Largest ratio of a shape's length along one axis to that along the other."""
    foreground: Finish
    """Colours of the shapes. The more they differ from ``background``, the easier the shapes are to
    see."""
    background: Finish
    """Colours of the background."""
    clutter: Annotated[list[Annotated[int, Ge(0)]], Len(2, 2)]
    """[fewest, most] lines, arcs and specks behind the shapes."""
    strokes: Annotated[list[Annotated[int, Ge(0)]], Len(2, 2)]
    """[fewest, most] thin lines across the shapes."""
    noise: Annotated[float, Ge(0), Le(1)] = 0.06
    """Largest standard deviation of the pixel noise, for pixel values in [0, 1]."""
    min_visible: Annotated[float, Gt(0), Le(1)] = 0.6
    """Smallest share of a shape that is inside the image and not covered by another shape."""
    cues: Cues | None = None
    """Frequency with which colour, texture and background also show the class. With this key, even
    with all probabilities 0, a prepared set of kind classification stores each image's factors."""
    conflicts: bool = False
    """true: in train all cues are of the image's class. In val the outline is of one class,
    texture, colour or background (in turn) of another, and the other cues of neither
    (``steps.bias``)."""

    @property
    def has_labels(self) -> bool:
        return self.kind == "classification"

    @property
    def has_captions(self) -> bool:
        return self.kind == "classification"

    @property
    def has_factors(self) -> bool:
        """True if the prepared set stores the factors of each image."""
        return self.kind == "classification" and (self.cues is not None or self.conflicts)

    @property
    def is_independent(self) -> bool:
        """True if it has factors, all independent of each other."""
        return self.has_factors and self.cues == Cues()

    @property
    def has_boxes(self) -> bool:
        return self.kind == "detection"

    @property
    def has_masks(self) -> bool:
        return self.has_boxes

    @model_validator(mode="after")
    def _consistent(self) -> ShapesDataset:
        intervals: dict[str, Sequence[float]] = {
            "objects": self.objects,
            "clutter": self.clutter,
            "strokes": self.strokes,
        }
        intervals |= {"foreground.value": self.foreground.value}
        intervals |= {"background.value": self.background.value}
        intervals |= {f"radii[{i}]": interval for i, interval in enumerate(self.radii)}
        for name, (low, high) in intervals.items():
            if low > high:
                raise ValueError(f"{name}: {low} is above {high}")
        largest = max(high for _, high in self.radii)
        if largest > self.image_size / 2:
            raise ValueError(f"radii: {largest} is above half the image_size {self.image_size}")
        if self.kind == "classification" and self.objects != [1, 1]:
            raise ValueError("kind classification has one shape per image: set objects to [1, 1]")
        self._check_cues()
        return self

    def _check_cues(self) -> None:
        if self.conflicts and self.kind != "classification":
            raise ValueError("conflicts is only for kind classification")
        if self.conflicts and self.cues is not None:
            raise ValueError("conflicts sets every cue: remove the key 'cues'")
        if self.cues is not None and self.kind == "detection":
            for key in ("ground_colour", "ground_texture"):
                if getattr(self.cues, key) > 0:
                    raise ValueError(
                        f"cues.{key} is above 0, but the shapes of a scene share one background: "
                        "remove the key"
                    )
