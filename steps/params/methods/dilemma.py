"""Params of DILEMMA."""

from __future__ import annotations

from typing import Literal

from steps.params.base import MaskRatio, NotNegative, Probability
from steps.params.masks import Incompatibility, drops_none
from steps.params.methods.method import MomentumContrast


class DILEMMAParams(MomentumContrast):
    """Detection of misplaced tokens beside momentum contrast (arXiv:2204.04788)."""

    kind = "Position"
    family = "position"
    takes_tokens = "plain"
    view_sizes = "backbone"
    name: Literal["dilemma"]
    drop_rate: MaskRatio
    """Share of the patches that the student does not see; 0: it sees all."""
    misplaced: Probability = 0.2
    """Probability that a token gets another patch's position; 0: nothing is to be detected,
    and no loss is added."""
    detection_weight: NotNegative = 1.0
    """Weight of the detection loss; the contrastive loss has weight 1 (lambda)."""

    def incompatibility(self, patches: int, depth: int | None) -> Incompatibility | None:
        """A rate that drops nothing, or everything."""
        return drops_none("drop_rate", self.drop_rate, patches, "patches")
