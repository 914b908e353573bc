"""Params of views: the crops of an image that a method sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Le, Len
from pydantic import StringConstraints, model_validator

from steps.params.base import Count, Interval, Params, Positive, Probability

Operation = Literal["crop", "flip", "rand_augment", "jitter", "grayscale", "blur", "solarize"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]
Engine = Literal["pillow", "tensor"]
_RAND_AUGMENT = r"^rand(-((m|n|mmax|inc)[0-9]+|(mstd|p)[0-9]+([.][0-9]+)?))*$"


class Jitter(Params):
    """Colour jitter: factors uniform in [1 - x, 1 + x] (hue: [-x, x]), applied in random order."""

    brightness: Annotated[float, Ge(0)]
    contrast: Annotated[float, Ge(0)]
    saturation: Annotated[float, Ge(0)]
    hue: Annotated[float, Ge(0), Le(0.5)]
    probability: Probability = 1.0


class Blur(Params):
    """Gaussian blur with a standard deviation uniform in ``sigma`` pixels."""

    probability: Probability
    sigma: Interval = [0.1, 2.0]
    kernel: Count | Literal["tenth"] | None = None
    """null: Pillow's blur, whose reach is unbounded (MoCo v3, DINO, iBOT). An odd number: number of
    taps, with mirrored edges (DINOv2: 9). tenth: a tenth of the side, made odd, with black beyond
    the edges (SimCLR)."""

    @model_validator(mode="after")
    def _odd(self) -> Blur:
        if isinstance(self.kernel, int) and self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even; it must be odd")
        return self


class Normalise(Params):
    """Mean and standard deviation per channel, for pixel values in [0, 1]."""

    mean: Annotated[list[float], Len(1)]
    """As many numbers as the set's images have channels, as in ``std``."""
    std: Annotated[list[Positive], Len(1)]

    @model_validator(mode="after")
    def _same_number(self) -> Normalise:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} numbers and std {len(self.std)}")
        return self


class SecondImage(Params):
    """A second image of the view's crop, for a tokenizer, with its own size and interpolation."""

    size: Count | None = None
    """Side in pixels; null: the view's."""
    interpolation: Interpolation = "bicubic"


class View(Params):
    """A random resized crop and its augmentation."""

    count: Annotated[int, Ge(1)] = 1
    """Number of such views per image."""
    size: Annotated[int, Ge(1)] | None = None
    """Side in pixels; null: the backbone's image size."""
    area: Interval
    """[low, high] of the crop's share of the image's area."""
    aspect: Interval = [3 / 4, 4 / 3]
    """[low, high] of the crop's width over its height."""
    interpolation: Interpolation = "bicubic"
    second: SecondImage | None = None
    """A second image of the same crop, which the method gets right after the first."""
    engine: Engine = "pillow"
    """Library that computes the pixels. pillow: the references' numbers. tensor: the same
    operations on tensors, faster, with pixels that differ by a few of 255
    (``benchmarks/data.py``)."""
    flip: Probability = 0.5
    """Probability of a horizontal flip."""
    rand_augment: Annotated[str, StringConstraints(pattern=_RAND_AUGMENT)] | None = None
    """RandAugment in timm's notation, such as rand-m9-mstd0.5-inc1."""
    jitter: Jitter | None = None
    grayscale: Probability = 0.0
    blur: Blur | None = None
    solarize: Probability = 0.0
    """Probability of inverting all values from ``solarize_threshold`` up."""
    solarize_threshold: Annotated[int, Ge(0), Le(256)] = 128
    order: list[Operation] = [
        "crop", "flip", "rand_augment", "jitter", "grayscale", "blur", "solarize"
    ]  # fmt: skip
    """Order of the operations. Those that this view does not use may be left out."""

    @model_validator(mode="after")
    def _in_order(self) -> View:
        on = {
            "crop": True,
            "flip": self.flip > 0,
            "rand_augment": self.rand_augment is not None,
            "jitter": self.jitter is not None,
            "grayscale": self.grayscale > 0,
            "blur": self.blur is not None,
            "solarize": self.solarize > 0,
        }
        twice = sorted({name for name in self.order if self.order.count(name) > 1})
        if twice:
            raise ValueError(f"order: {twice[0]} is listed twice")
        missing = [name for name, used in on.items() if used and name not in self.order]
        if missing:
            raise ValueError(f"order: {', '.join(missing)} is missing, but this view uses it")
        if self.second is not None and self.order[-1] != "crop":
            raise ValueError(
                f"order ends with {self.order[-1]}: a view with a second image must end with crop, "
                "such as [jitter, flip, crop]"
            )
        return self

    @model_validator(mode="after")
    def _tensor_operations(self) -> View:
        if self.engine == "pillow":
            return self
        for name, used in (
            ("rand_augment", self.rand_augment is not None),
            ("second", self.second is not None),
            ("interpolation: lanczos", self.interpolation == "lanczos"),
        ):
            if used:
                raise ValueError(f"engine: tensor has no {name}; set engine: pillow")
        return self

    @model_validator(mode="after")
    def _intervals(self) -> View:
        for name, (low, high) in (("area", self.area), ("aspect", self.aspect)):
            if low > high:
                raise ValueError(f"{name}: {low} is above {high}")
        if self.area[1] > 1:
            raise ValueError(f"area: {self.area[1]} is above 1, the whole image")
        return self


def sides(views: Sequence[View], size: int) -> tuple[int, ...]:
    """The side in pixels of each view of an image; ``size`` where a view gives none."""
    return tuple(view.size or size for view in views for _ in range(view.count))
