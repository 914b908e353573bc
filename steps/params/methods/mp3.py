"""Params of MP3."""

from __future__ import annotations

from typing import Literal

from steps.params.base import MaskRatio
from steps.params.masks import Incompatibility, hides_none
from steps.params.methods.method import Method


class MP3Params(Method):
    """Position prediction (arXiv:2207.07611)."""

    kind = "Position"
    family = "position"
    takes_tokens = "no registers"
    view_sizes = "backbone"
    drawn = True
    # Its tokens must not know their position, and pretrained backbones add positions to them.
    takes_init = "none"
    name: Literal["mp3"]
    mask_ratio: MaskRatio
    """Share of the patches that are neither key nor value in any block."""

    def incompatibility(self, patches: int, depth: int | None) -> Incompatibility | None:
        """A ratio that hides nothing."""
        if self.mask_ratio > 0 and int(self.mask_ratio * patches) == 0:
            return hides_none("mask_ratio", self.mask_ratio, patches)
        return None
