"""Params of the narrow transformer that decodes what a masked encoder saw."""

from __future__ import annotations

from pydantic import model_validator

from steps.params.base import Params
from steps.params.numbers import Count, Positive


class Decoder(Params):
    """Width, depth, heads and MLPs of a decoder (MAE, DropPos)."""

    embed_dim: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Positive = 4.0
    """Hidden width of a block's MLP over ``embed_dim``; their product is rounded down."""

    @model_validator(mode="after")
    def _divides(self) -> Decoder:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads")
        if self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of 4 (sin-cos table)")
        return self
