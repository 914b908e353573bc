"""Params that datasets of several formats share: splits, channels, tiles, bad items."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import (
    AfterValidator,
    model_validator,
)

from steps.params.base import LATER, Params

GROUND = (255, 255, 255)
RGB = (3, 8)
"""Channels and bits of usual images."""
MAX_PIXELS = 178_956_970
"""Default of ``max_pixels``: about half a GB as RGB."""


Count = Annotated[int, Ge(1)]
Pixels = Annotated[float, Gt(0)]
Text = Annotated[str, Len(1)]


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from error
    return text


Kind = Literal[
    "classification", "multilabel", "regression", "detection", "masks", "captions", "images"
]
Target = Literal["class", "classes", "number"]
"""Target of a probe on a labelled set: a class per image, any number of them, or a number."""


class HeldOut(Params):
    """A part of the training images as the validation split, chosen by seed.

    Each class gives its share of images, at least one where it has two or more. An image is in or
    out by its name and the seed only: images that are added later move no other.
    """

    share: Annotated[float, Gt(0), Lt(1)]
    """Share of the training images."""
    seed: Annotated[int, Ge(0)] = 0
    group: Annotated[str, Len(1), AfterValidator(_expression)] | None = None
    """Regular expression that finds a group in an image's name: a patient, a slide, a video. Whole
    groups are held out, since images of one group are alike. Its first parenthesis names the group,
    or all that it matches. null: each image is a group of its own."""


class Limit(Params):
    """Number of images to take of each split; null: all.

    Labelled images are taken in equal shares per class, evenly spaced within it. Of other images
    the first are taken, by id if they have numbers.
    """

    train: Count | None = None
    val: Count | None = None


class DatasetParams(Params):
    limit: Limit = Limit()
    on_bad: Literal["fail", "skip"] = "fail"
    """fail: a bad image, label, box or caption stops the step, and nothing is written. skip: it is
    left out and listed in the manifest."""
    max_bad_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    """With skip: share of bad items of a split above which the step still fails."""

    @property
    def form(self) -> tuple[int, int]:
        """Channels of each image and bits of each channel."""
        return RGB

    @property
    def is_rgb(self) -> bool:
        """True for images of three channels of 8 bits, which Pillow reads; False: ``form``
        describes arrays of numbers (``steps.data.bands``)."""
        return self.form == RGB

    @property
    def has_labels(self) -> bool:
        """True if each image has a class."""
        return False

    @property
    def target(self) -> Target | None:
        """Target of the probes of the set; None: nothing is known of each image."""
        return "class" if self.has_labels else None

    @property
    def has_captions(self) -> bool:
        """True if each image has captions."""
        return False

    @property
    def has_boxes(self) -> bool:
        """True if objects have boxes: a set for detection."""
        return False

    @property
    def has_masks(self) -> bool:
        """True if each object's box comes with a mask."""
        return False

    @property
    def has_pixel_classes(self) -> bool:
        """True if each pixel has a class: a set for semantic segmentation."""
        return self.has_masks

    @model_validator(mode="after")
    def _tolerance(self) -> DatasetParams:
        if self.on_bad == "skip" and self.max_bad_share == 0:
            raise ValueError("on_bad is skip, so max_bad_share must be above 0")
        if self.on_bad == "fail" and self.max_bad_share > 0:
            raise ValueError("on_bad is fail, so max_bad_share has no effect: remove it")
        return self


class FromFiles(DatasetParams):
    """Params of all datasets that are read from image files."""

    ground: Annotated[list[Annotated[int, Ge(0), Le(255)]], Len(3, 3)] = [*GROUND]
    """Red, green and blue, 0 to 255, behind transparent pixels; white by default. An image of which
    nothing is visible on it is bad."""
    max_pixels: Count = MAX_PIXELS
    """Width times height above which an image is bad. Decoding takes 4 bytes per pixel."""
    max_in_both: Annotated[int, Ge(0)] | None = None
    """Number of val images that may also be in train, pixel for pixel; more stop the step. null:
    any number. They are counted and listed in any case."""


class Tiles(Params):
    """A grid of squares that images are cut into."""

    side: Count
    """Height and width of a tile in pixels. A shorter image is not cut along that side."""
    overlap: Annotated[int, Ge(0)] = 0
    """Pixels that neighbours share, at least: tiles are spread evenly over the whole image, so
    that the last ones end where it ends."""

    @model_validator(mode="after")
    def _moves_on(self) -> Tiles:
        if self.overlap >= self.side:
            raise ValueError(f"overlap: {self.overlap} must be below side, {self.side}")
        return self

    def places(self, width: int, height: int) -> list[tuple[int, int]]:
        """Left and top edges of the tiles of an image, row by row."""
        return [(left, top) for top in self._edges(height) for left in self._edges(width)]

    def _edges(self, length: int) -> list[int]:
        if length <= self.side:
            return [0]
        last = -(-(length - self.overlap) // (self.side - self.overlap)) - 1
        return [index * (length - self.side) // last for index in range(last + 1)]


class ImageFiles(FromFiles):
    resize_short_side: Count | None = None
    """Short side in pixels to which larger images are shrunk, as JPEG of quality 95; PNGs stay
    PNGs, and images too large for JPEG become PNGs. null: keep each file's bytes, except that
    images that are turned upright or put on ``ground`` become PNGs."""
    channels: Annotated[int, Ge(1), Le(1024), LATER] = 3
    """Channels of each image, such as 4 for red, green, blue and near infrared. Images of other
    than three channels of 8 bits are TIFF files, NumPy's ``.npy`` (channels first or last), or
    pictures of as many channels. They are stored without loss, and all their channels are data:
    ``ground`` does not apply. Every image must have this number."""
    bits: Annotated[Literal[8, 16], LATER] = 8
    """Bits of each channel in the files. Values count as shares of 255 or 65,535."""

    @property
    def form(self) -> tuple[int, int]:
        return self.channels, self.bits

    @model_validator(mode="after")
    def _no_ground(self) -> ImageFiles:
        if not self.is_rgb and self.ground != [*GROUND]:
            raise ValueError(
                f"ground is for three channels of 8 bits, and channels is {self.channels}, bits "
                f"{self.bits}, where a fourth channel is data: remove the key"
            )
        return self
