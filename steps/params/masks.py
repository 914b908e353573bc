"""Params of masks that hide blocks of patches."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Len, Lt
from pydantic import model_validator

from steps.params.base import Params
from steps.params.numbers import Count, Probability, Whole


class BlockMasks(Params):
    """Block-wise masking (BEiT, arXiv:2106.08254, algorithm 1)."""

    ratio: Annotated[float, Gt(0), Lt(1)]
    """Share of the patches to hide, rounded down to whole patches: 75 of 196 as published."""
    min_block: Count = 16
    """The least patches that a block aims at, though the last ones may be smaller."""
    max_block: Count | None = None
    """The most patches that a block adds; null: as many as are left to hide."""
    min_aspect: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Height over width is log-uniform between this and its inverse."""

    def misfit(self, patches: int) -> tuple[str, str, str] | None:
        """As of a method: a ratio that hides nothing."""
        if int(self.ratio * patches) > 0:
            return None
        return "masks.ratio", f"{self.ratio}, of {patches} patches not one", f"above {1 / patches}"


class RatioMasks(Params):
    """Masks whose share of the patches is drawn for each crop (iBOT, arXiv:2111.07832, 3.1)."""

    shape: Literal["block", "random"]
    """Blocks of patches as in BEiT, or patches one by one."""
    ratios: Annotated[list[Probability], Len(1)]
    """One of these shares is drawn for each crop."""
    variances: Annotated[list[Probability], Len(1)]
    """To each ratio: the share is uniform within so much of it, on both sides."""
    min_aspect: Annotated[float, Gt(0), Lt(1)] = 0.3
    """Of a block: height over width is log-uniform between this and its inverse."""
    start_epoch: Whole = 0
    """Before this epoch nothing is masked."""

    @model_validator(mode="after")
    def _within(self) -> RatioMasks:
        if len(self.ratios) != len(self.variances):
            raise ValueError(f"{len(self.variances)} variances to {len(self.ratios)} ratios")
        for ratio, variance in zip(self.ratios, self.variances, strict=True):
            if variance > min(ratio, 1 - ratio):
                raise ValueError(f"{ratio} +- {variance} leaves 0 to 1")
        return self
