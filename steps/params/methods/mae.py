"""Params of MAE."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt

from steps.params.base import MaskRatio
from steps.params.masks import Incompatibility, drops_none
from steps.params.methods.method import Decoder, Method


class MAEParams(Method):
    """Masked autoencoder (arXiv:2111.06377)."""

    kind = "Generative"
    family = "masked"
    takes_tokens = "sine-cosine"
    view_sizes = "backbone"
    drawn = True
    name: Literal["mae"]
    mask_ratio: Annotated[MaskRatio, Gt(0)]
    norm_pix_loss: bool
    """Targets are the pixels normalised within each patch (true), or as they are."""
    decoder: Decoder

    def incompatibility(self, patches: int, depth: int | None) -> Incompatibility | None:
        """A ratio that hides nothing, or everything."""
        return drops_none("mask_ratio", self.mask_ratio, patches, "patches")
