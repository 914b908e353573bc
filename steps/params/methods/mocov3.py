"""Params of MoCo v3."""

from __future__ import annotations

from typing import Literal

from steps.params.methods.method import MomentumContrast


class MoCoV3Params(MomentumContrast):
    """Momentum contrast of two views (arXiv:2104.02057)."""

    kind = "Contrastive"
    family = "contrastive"
    takes_tokens = "sine-cosine"
    reads = "features"
    name: Literal["mocov3"]
    frozen_patch_embed: bool = True
    """Leave a vision transformer's patch projection at its random initial values, against unstable
    training. A ResNet has none."""
