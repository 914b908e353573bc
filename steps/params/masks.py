"""Params of masks that hide blocks of patches."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Lt

from steps.params.base import Params
from steps.params.numbers import Count


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
