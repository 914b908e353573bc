"""Params of views: how one image becomes the crops that a method sees."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import model_validator

from steps.params.base import Params
from steps.params.numbers import Interval, Probability


class Jitter(Params):
    """Colour jitter: factors uniform in [1 - x, 1 + x] (hue: [-x, x]), applied in random order."""

    brightness: Annotated[float, Ge(0)]
    contrast: Annotated[float, Ge(0)]
    saturation: Annotated[float, Ge(0)]
    hue: Annotated[float, Ge(0), Le(0.5)]
    probability: Probability = 1.0


class Blur(Params):
    """Gaussian blur with a radius uniform in ``sigma`` pixels."""

    probability: Probability
    sigma: Interval = [0.1, 2.0]


class View(Params):
    """A random resized crop and what is done to it, in the order of the keys."""

    count: Annotated[int, Ge(1)] = 1
    """How many such views of an image."""
    size: Annotated[int, Ge(1)] | None = None
    """Side in pixels; the backbone's image size where absent."""
    area: Interval
    """Share of the image's area that the crop covers."""
    aspect: Interval = [3 / 4, 4 / 3]
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    flip: Probability = 0.5
    rand_augment: str | None = None
    """timm's notation of RandAugment, such as rand-m9-mstd0.5-inc1."""
    jitter: Jitter | None = None
    grayscale: Probability = 0.0
    blur: Blur | None = None
    solarize: Probability = 0.0
    """Probability of inverting all values of 128 and above."""

    @model_validator(mode="after")
    def _ordered(self) -> View:
        for name, (low, high) in (("area", self.area), ("aspect", self.aspect)):
            if low > high:
                raise ValueError(f"{name}: {low} is above {high}")
        if self.area[1] > 1:
            raise ValueError(f"area: {self.area[1]} is above 1, the whole image")
        return self
