"""Params of BEiT v2."""

from __future__ import annotations

from typing import Literal

from steps.params.backbone import BEiTBackbone
from steps.params.base import Count, DropPath, Params
from steps.params.masks import BlockMasks, Incompatibility
from steps.params.methods.method import Method


class PatchAggregation(Params):
    """The shallow head that makes the class token gather what the patches need."""

    early_layers: Count
    """Number of blocks of the backbone that its patches have passed."""
    layers: Count = 2
    shared_output: bool = True
    """Predict by the backbone's norm and output layer, rather than by some of its own."""


class BEiT2Params(Method):
    """Prediction of a vector-quantised teacher's tokens (arXiv:2208.06366)."""

    kind = "Generative"
    family = "masked"
    view_sizes = "backbone"
    drawn = True
    takes_tokenizer = "required"
    takes_second_image = True
    name: Literal["beit2"]
    backbone: BEiTBackbone = BEiTBackbone()
    masks: BlockMasks
    aggregation: PatchAggregation
    drop_path: DropPath = 0.0

    def incompatibility(self, patches: int, depth: int | None) -> Incompatibility | None:
        """Masks that hide nothing, or early layers that are all there are."""
        early = self.aggregation.early_layers
        if depth is not None and early >= depth:
            found = f"{early}, and the backbone has {depth} blocks"
            return "aggregation.early_layers", found, f"1 to {depth - 1}"
        return self.masks.incompatibility(patches)
