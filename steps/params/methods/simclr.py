"""Params of SimCLR."""

from __future__ import annotations

from typing import Literal

from steps.params.base import Count, Params, Positive
from steps.params.methods.method import Method


class Projector(Params):
    """The MLP between the backbone and the loss: linear layers, each with batch norm."""

    layers: Count = 3
    """Three in the second version (arXiv:2006.10029), two in the first."""
    hidden_dim: Count | None = None
    """The backbone's width where absent."""
    out_dim: Count = 128


class SimCLRParams(Method):
    """A simple framework for contrastive learning (arXiv:2002.05709)."""

    kind = "Contrastive"
    family = "contrastive"
    view_sizes = "equal"
    reads = "features"
    rotary = True
    compares = "tells an image from the others of its batch"
    name: Literal["simclr"]
    temperature: Positive = 0.1
    normalise: bool = True
    """Compare embeddings by cosine (True, as published) or by dot product."""
    projector: Projector = Projector()

    def check_views(self, views: int) -> None:
        """Two views."""
        if views != 2:
            raise ValueError(f"training.views gives {views} views an image; simclr takes two")
