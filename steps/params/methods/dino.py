"""Params of DINO."""

from __future__ import annotations

from typing import Literal

from steps.params.methods.method import Method
from steps.params.methods.prototypes import PrototypeHead
from steps.params.numbers import Count, DropPath, Momentum, Positive, Whole


class DINOParams(Method):
    """Self-distillation with no labels (arXiv:2104.14294).

    A recipe with a ``teacher`` that dino or ibot trained distils from it, head and all.
    """

    kind = "Contrastive"
    takes_teacher = "optional"
    name: Literal["dino"]
    global_views: Count = 2
    """The first so many views go through the teacher too."""
    head: PrototypeHead
    """In distillation ``out_dim`` is that of the teacher's."""
    student_temp: Positive = 0.1
    teacher_temp: Positive
    warmup_teacher_temp: Positive
    warmup_teacher_temp_epochs: Whole
    momentum: Momentum
    momentum_end: Momentum = 1.0
    center_momentum: Momentum = 0.9
    freeze_last_layer_epochs: Whole = 1
    drop_path: DropPath = 0.0

    def check_views(self, views: int) -> None:
        """Two views or more, the global ones among them."""
        if views < 2 or views < self.global_views:
            raise ValueError(
                f"training.views gives {views} views an image; dino needs two or more, "
                f"global_views = {self.global_views} of them global"
            )
