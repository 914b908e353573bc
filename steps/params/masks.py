"""Params of masks that hide blocks of patches."""

from __future__ import annotations

import math
from itertools import product
from typing import Annotated, Literal

from annotated_types import Gt, Len, Lt
from pydantic import model_validator

from steps.params.base import Count, Params, Probability, Whole

Incompatibility = tuple[str, str, str]
"""A key, what was found there, and what is allowed."""


def hides_none(key: str, share: float, patches: int) -> Incompatibility:
    """Incompatibility of a share that is less than one of ``patches``."""
    return key, f"{share:g}, of {patches} patches not one", f"{_up(1 / patches)} or more"


def _up(share: float) -> str:
    """A share in four digits, rounded up so that the printed number suffices."""
    return f"{math.ceil(share * 1e4) / 1e4:g}"


def drops_none(key: str, share: float, count: int, what: str) -> Incompatibility | None:
    """Incompatibility of a share above 0 of ``count`` that drops none, or keeps none.

    The number kept is rounded down (``steps.models.masks``).
    """
    stay = int(count * (1 - share))
    if share > 0 and stay == count:
        return hides_none(key, share, count)
    if stay == 0:
        return key, f"{share:g} keeps none of {count} {what}", f"up to {1 - 1 / count:.4g}"
    return None


def masks_none(key: str, share: float, crops: int, what: str) -> Incompatibility | None:
    """Incompatibility of a share above 0 that is less than one of a batch's crops."""
    if share == 0 or int(crops * share) > 0:
        return None
    return key, f"{share:g}, of {crops} {what} not one", f"0, or {_up(1 / crops)} and more"


def lays_block(side: int, least: float, most: float, min_aspect: float) -> bool:
    """True if blocks can be laid over a grid as ``steps.models.masks`` proposes them.

    Args:
        side: of the grid; blocks are smaller.
        least: smallest area drawn, in patches.
        most: patches that a block may hide; areas are drawn between the two, whichever is larger.
        min_aspect: height over width is between this and its inverse.
    """
    low, high = sorted((least, most))
    for height, width in product(range(1, side), repeat=2):
        # Intervals that round to these sides.
        (a, b), (c, d) = (height - 0.5, height + 0.5), (width - 0.5, width + 0.5)
        area, aspect = (
            a * c <= high and low <= b * d,
            a / d <= 1 / min_aspect and min_aspect <= b / c,
        )
        if height * width <= most and area and aspect:
            return True
    return False


class BlockMasks(Params):
    """Block-wise masking (BEiT, arXiv:2106.08254, algorithm 1)."""

    ratio: Annotated[float, Gt(0), Lt(1)]
    """Share of the patches to hide, rounded down to whole patches (published: 75 of 196)."""
    min_block: Count = 16
    """Smallest block in patches; the last ones may be smaller."""
    max_block: Count | None = None
    """Largest block in patches; null: all that remain to be hidden."""
    min_aspect: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Height over width is log-uniform between this and its inverse."""

    def incompatibility(self, patches: int) -> Incompatibility | None:
        """Incompatibility of a ratio that hides nothing, or of blocks that cannot be laid."""
        hidden, side = int(self.ratio * patches), math.isqrt(patches)
        if hidden == 0:
            return hides_none("masks.ratio", self.ratio, patches)
        most = min(hidden, self.max_block or hidden)
        if self.min_block <= most and lays_block(side, self.min_block, most, self.min_aspect):
            return None
        return (
            "masks.min_block",
            f"{self.min_block}: no block of it fits, of at most {most} patches in a grid of "
            f"{side} x {side}",
            f"1 to {min(most, (side - 1) ** 2)}" if side > 1 else "a backbone of more patches",
        )


class RatioMasks(Params):
    """Masks whose share of the patches is drawn for each crop (iBOT, arXiv:2111.07832, 3.1)."""

    shape: Literal["block", "random"]
    """block: blocks of patches as in BEiT. random: single patches."""
    ratios: Annotated[list[Probability], Len(1)]
    """Shares of the patches, one of which is drawn per crop."""
    variances: Annotated[list[Probability], Len(1)]
    """Half-width per ratio: the share is uniform within this distance of the ratio."""
    min_aspect: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Height over width of a block is log-uniform between this and its inverse."""
    start_epoch: Whole = 0
    """First epoch with masks."""

    def incompatibility(self, patches: int) -> Incompatibility | None:
        """Incompatibility of ratios that hide nothing."""
        highest = max(map(sum, zip(self.ratios, self.variances, strict=True)))
        side = math.isqrt(patches)
        block = self.shape == "random" or lays_block(
            side, (side // 3) ** 2, highest * patches, self.min_aspect
        )
        if highest * patches >= 1 and block:
            return None
        return hides_none("masks.ratios", highest, patches)

    @model_validator(mode="after")
    def _within(self) -> RatioMasks:
        if len(self.ratios) != len(self.variances):
            raise ValueError(f"{len(self.variances)} variances for {len(self.ratios)} ratios")
        for ratio, variance in zip(self.ratios, self.variances, strict=True):
            if variance > min(ratio, 1 - ratio):
                raise ValueError(f"{ratio} +- {variance} is outside [0, 1]")
        return self
