"""Params that the methods on momentum contrast share: MoCo v3, DILEMMA."""

from __future__ import annotations

from steps.params.base import Params
from steps.params.methods.method import Method
from steps.params.numbers import Count, Momentum, Positive


class Projector(Params):
    """An MLP from features to the space of the loss, batch norm after every layer."""

    layers: Count = 3
    hidden_dim: Count
    out_dim: Count


class Predictor(Params):
    """A further MLP of queries alone, as wide as the projector at both ends."""

    layers: Count = 2
    hidden_dim: Count
    last_norm: bool = True
    """End with a batch norm (MoCo v3 of vision transformers) or not (of residual networks)."""


class MomentumContrast(Method):
    """Two views, queries of one encoder, keys of its moving average."""

    compares = "tells an image from the others of its batch"
    temperature: Positive = 0.2
    momentum: Momentum = 0.99
    """Of the moving average at the start; a cosine takes it to ``momentum_end``."""
    momentum_end: Momentum = 1.0
    projector: Projector
    predictor: Predictor

    def check_views(self, views: int) -> None:
        """Two views."""
        if views != 2:
            raise ValueError(f"training.views gives {views} views an image; {self.name} takes two")
