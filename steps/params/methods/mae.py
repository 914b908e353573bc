"""Params of MAE."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from steps.params.base import Params
from steps.params.methods.method import Method
from steps.params.numbers import Count, MaskRatio


class MAEDecoder(Params):
    """The narrow transformer that predicts pixels."""

    embed_dim: Count
    depth: Count
    num_heads: Count

    @model_validator(mode="after")
    def _divides(self) -> MAEDecoder:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads")
        if self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of 4 (sin-cos table)")
        return self


class MAEParams(Method):
    """Masked autoencoder (arXiv:2111.06377)."""

    kind = "Generative"
    name: Literal["mae"]
    mask_ratio: MaskRatio
    norm_pix_loss: bool
    decoder: MAEDecoder
