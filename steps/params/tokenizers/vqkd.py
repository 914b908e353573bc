"""Params of vector-quantised knowledge distillation."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from steps.params.base import Params
from steps.params.numbers import Count, Momentum, NotNegative, Positive
from steps.params.tokenizers.tokenizer import Tokenizer


class Transformer(Params):
    """A plain vision transformer with a learnt position table."""

    embed_dim: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Positive = 4.0

    @model_validator(mode="after")
    def _divides(self) -> Transformer:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads")
        return self


class VQKDParams(Tokenizer):
    """The tokenizer of BEiT v2 (arXiv:2208.06366), a token for each patch."""

    takes_teacher = "required"
    official_files = ("model",)
    name: Literal["vqkd"]
    patch_size: Count
    encoder: Transformer
    decoder: Transformer
    codes: Count
    code_dim: Count
    projected: bool = False
    """Take the teacher's patch features after its projection into the space that it shares with
    text (clip alone has one), as BEiT v2 does."""
    ema_decay: Momentum = 0.99
    """Of the codebook."""
    kmeans_init: bool = True
    """Start the codebook from clusters of the first batch."""
    commitment: NotNegative = 1.0
    """Beta, the weight of the distance between features and codes."""
    rec_loss_type: Literal["cosine"] = "cosine"
    process_type: Literal["default", "imagenet_norm"] = "default"
    """default: pixels from -1 to 1; imagenet_norm: mean and deviation of ImageNet taken out."""

    @property
    def token_pixels(self) -> int:
        """A patch."""
        return self.patch_size

    def check_batch(self, batch: int) -> None:
        """k-means finds a code in the first batch for each that it starts."""
        features = batch * (self.image_size // self.patch_size) ** 2
        if self.kmeans_init and features < self.codes:
            raise ValueError(
                f"training.batch_size {batch}: its {features:,} patches are fewer than the "
                f"{self.codes:,} codes that k-means starts from them; take a larger batch, fewer "
                "codes, or kmeans_init: false"
            )

    @model_validator(mode="after")
    def _fits(self) -> VQKDParams:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        return self
