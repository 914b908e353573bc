"""Params of iBOT."""

from __future__ import annotations

from typing import Literal

from steps.params.base import Momentum, NotNegative, Positive
from steps.params.masks import Incompatibility, RatioMasks
from steps.params.methods.method import PatchPrototypeHead, SelfDistillation


class IBOTParams(SelfDistillation):
    """Masked image modelling with an online tokenizer (arXiv:2111.07832).

    The global views are the masked ones. Both temperatures have the same warm-up epochs; the
    patches' begin with ``masks.start_epoch``.
    """

    kind = "Hybrid"
    family = "hybrid"
    name: Literal["ibot"]
    masks: RatioMasks
    head: PatchPrototypeHead
    dino_weight: NotNegative = 1.0
    """Lambda 1, of the class tokens' loss."""
    ibot_weight: NotNegative = 1.0
    """Lambda 2, of the patches' loss."""
    teacher_patch_temp: Positive
    warmup_teacher_patch_temp: Positive
    patch_center_momentum: Momentum = 0.9

    def incompatibility(self, patches: int, depth: int | None) -> Incompatibility | None:
        """Masks that hide nothing, where there is a loss of what they hide."""
        return self.masks.incompatibility(patches) if self.ibot_weight > 0 else None

    def check_run(self, batch: int, epochs: float) -> None:
        """Masks that begin before the run ends."""
        super().check_run(batch, epochs)
        if self.ibot_weight > 0 and self.masks.start_epoch >= epochs:
            raise ValueError(
                f"masks.start_epoch {self.masks.start_epoch}: nothing is masked in a run of "
                f"{epochs:g} epochs"
            )
