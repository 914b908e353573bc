"""Params of DINOv2."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Len
from pydantic import model_validator

from steps.params.base import (
    DropPath,
    Momentum,
    NotNegative,
    Params,
    Positive,
    Probability,
    Whole,
)
from steps.params.masks import Incompatibility, hides_none, lays_block, masks_none
from steps.params.methods.method import Method, PrototypeHead

_LEAST_BLOCK, _ASPECT = 4, 0.3
"""Limits of ``sample_spread_blocks`` in steps/models/masks.py."""


class Masks(Params):
    """Block masks of the student's global crops."""

    probability: Probability = 0.5
    """Share of the crops that are masked. 0: none is, and the patch loss is over all patches, as
    in distillation."""
    ratios: Annotated[list[Probability], Len(2, 2)] = [0.1, 0.5]
    """Least and greatest share of the patches of a masked crop, spread evenly over the batch."""


class Positions(Params):
    """Resizing of the position table to the grid of smaller crops."""

    offset: NotNegative = 0.1
    """0 for models with registers."""
    antialias: bool = False
    """True for models with registers."""


class DINOv2Backbone(Params):
    """Additions to the experiment's backbone."""

    layer_scale: NotNegative = 1e-5
    """Initial value of the residual branches' learnt factors; 0: none."""
    registers: Whole = 0
    """Tokens without a position (arXiv:2309.16588); four in the published models with any."""
    ffn: Literal["mlp", "swiglu"] = "mlp"
    """Gated MLPs in the published models trained on more than ImageNet-1K."""


class DINOv2Params(Method):
    """DINO's class-token loss, iBOT's masked-patch loss and KoLeo (arXiv:2304.07193)."""

    kind = "Hybrid"
    family = "hybrid"
    view_sizes = "kinds"
    takes_teacher = "optional"
    final_phase = True
    name: Literal["dinov2"]
    backbone: DINOv2Backbone = DINOv2Backbone()
    head: PrototypeHead
    """Head of class tokens."""
    patch_head: PrototypeHead | None = None
    """Head of patch tokens; null: they share the class tokens' head."""
    masks: Masks = Masks()
    dino_weight: Positive = 1.0
    ibot_weight: NotNegative = 1.0
    koleo_weight: NotNegative = 0.1
    centering: Literal["sinkhorn_knopp", "centering"]
    sinkhorn_iterations: Whole = 3
    center_momentum: Momentum = 0.9
    student_temp: Positive = 0.1
    teacher_temp: Positive = 0.07
    warmup_teacher_temp: Positive = 0.04
    warmup_teacher_temp_epochs: NotNegative
    """The temperature rises at every step of these epochs."""
    momentum: Momentum
    momentum_end: Momentum = 1.0
    freeze_last_layer_epochs: Whole = 1
    drop_path: DropPath = 0.0
    drop_path_uniform: bool = True
    """The same rate in all blocks, or a linear rise from 0."""
    positions: Positions = Positions()

    def check_views(self, views: int) -> None:
        """Two global views, then local ones."""
        if views < 2:
            raise ValueError(
                f"training.views gives {views} view(s) an image; dinov2 needs two, which are "
                "global, and takes more, which are local"
            )

    def incompatibility(self, patches: int, depth: int | None) -> Incompatibility | None:
        """Masks that hide nothing of a crop that is masked."""
        side, highest = math.isqrt(patches), self.masks.ratios[1]
        most = min(int(highest * patches), side // 2 * side)
        if self.masks.probability == 0 or (most and lays_block(side, _LEAST_BLOCK, most, _ASPECT)):
            return None
        return hides_none("masks.ratios", highest, patches)

    def check_run(self, batch: int, epochs: float) -> None:
        """A crop of a batch is masked, and has another one near it for KoLeo."""
        super().check_run(batch, epochs)
        found = masks_none("masks.probability", self.masks.probability, 2 * batch, "global crops")
        if found is not None:
            key, what, allowed = found
            raise ValueError(f"{key} {what} at batch_size {batch}; allowed: {allowed}")
        if self.koleo_weight > 0 and batch < 2:
            raise ValueError(
                f"training.batch_size is {batch}; KoLeo parts an image from the others of its "
                "batch: it takes 2 or more, or koleo_weight 0"
            )

    @model_validator(mode="after")
    def _ordered(self) -> DINOv2Params:
        low, high = self.masks.ratios
        if low > high:
            raise ValueError(f"masks.ratios: {low} is above {high}")
        if self.patch_head is not None and self.ibot_weight == 0:
            raise ValueError("ibot_weight is 0: there is no patch loss, remove 'patch_head'")
        if self.ibot_weight > 0 and (self.patch_head or self.head).use_bn:
            key = "patch_head" if self.patch_head else "head"
            raise ValueError(f"{key}.use_bn: a head of patches has no batch norm")
        return self
