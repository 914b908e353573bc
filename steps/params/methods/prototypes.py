"""Params of the projection head that DINO, iBOT and DINOv2 share."""

from __future__ import annotations

from steps.params.base import Params
from steps.params.numbers import Count


class PrototypeHead(Params):
    """Projection onto prototypes."""

    layers: Count = 3
    hidden_dim: Count
    bottleneck_dim: Count
    out_dim: Count
    norm_last_layer: bool = True
    """Keep the prototypes' lengths at 1 (True) or train them."""
    use_bn: bool = False
