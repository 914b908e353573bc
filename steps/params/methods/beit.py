"""Params of BEiT."""

from __future__ import annotations

from typing import Literal

from steps.params.backbone import BEiTBackbone
from steps.params.base import DropPath
from steps.params.masks import BlockMasks, Incompatibility
from steps.params.methods.method import Method


class BEiTParams(Method):
    """Prediction of visual tokens (arXiv:2106.08254)."""

    kind = "Generative"
    family = "masked"
    view_sizes = "backbone"
    drawn = True
    takes_tokenizer = "required"
    takes_second_image = True
    name: Literal["beit"]
    backbone: BEiTBackbone = BEiTBackbone()
    masks: BlockMasks
    drop_path: DropPath = 0.0

    def incompatibility(self, patches: int, depth: int | None) -> Incompatibility | None:
        """Masks that hide nothing."""
        return self.masks.incompatibility(patches)
