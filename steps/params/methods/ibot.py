"""Params of iBOT."""

from __future__ import annotations

from typing import Literal

from steps.params.masks import RatioMasks
from steps.params.methods.method import Method
from steps.params.methods.prototypes import PatchPrototypeHead
from steps.params.numbers import Count, DropPath, Momentum, NotNegative, Positive, Whole


class IBOTParams(Method):
    """Masked image modelling with an online tokenizer (arXiv:2111.07832)."""

    kind = "Hybrid"
    name: Literal["ibot"]
    global_views: Count = 2
    """The first so many views are masked, and go through the teacher too."""
    masks: RatioMasks
    head: PatchPrototypeHead
    dino_weight: NotNegative = 1.0
    """Lambda 1, of the class tokens' loss."""
    ibot_weight: NotNegative = 1.0
    """Lambda 2, of the patches' loss."""
    student_temp: Positive = 0.1
    teacher_temp: Positive
    warmup_teacher_temp: Positive
    teacher_patch_temp: Positive
    warmup_teacher_patch_temp: Positive
    warmup_teacher_temp_epochs: Whole
    """Of both temperatures; that of patches begins with ``masks.start_epoch``."""
    momentum: Momentum
    momentum_end: Momentum = 1.0
    center_momentum: Momentum = 0.9
    patch_center_momentum: Momentum = 0.9
    freeze_last_layer_epochs: Whole = 1
    drop_path: DropPath = 0.0

    def check_views(self, views: int) -> None:
        """Two views or more, the global ones among them."""
        if views < 2 or views < self.global_views:
            raise ValueError(
                f"training.views gives {views} views an image; ibot needs two or more, "
                f"global_views = {self.global_views} of them global"
            )
