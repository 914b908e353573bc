"""Params that DINO and iBOT share."""

from __future__ import annotations

from steps.params.methods.method import Method
from steps.params.numbers import Count, DropPath, Momentum, Positive, Whole


class SelfDistillation(Method):
    """A student that predicts, from any view, what its moving average says of the global ones."""

    global_views: Count = 2
    """The first so many views go through the teacher too."""
    student_temp: Positive = 0.1
    teacher_temp: Positive
    warmup_teacher_temp: Positive
    warmup_teacher_temp_epochs: Whole
    momentum: Momentum
    """Of the moving average at the start; a cosine takes it to ``momentum_end``."""
    momentum_end: Momentum = 1.0
    center_momentum: Momentum = 0.9
    freeze_last_layer_epochs: Whole = 1
    drop_path: DropPath = 0.0

    def check_views(self, views: int) -> None:
        """Two views or more, the global ones among them."""
        if views < 2 or views < self.global_views:
            raise ValueError(
                f"training.views gives {views} views an image; {self.name} needs two or more, "
                f"global_views = {self.global_views} of them global"
            )
