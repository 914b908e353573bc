"""Params of CLIP, with SigLIP's loss as an option."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Len
from pydantic import AfterValidator, Field

from steps.params.base import Count, Params
from steps.params.methods.method import Method
from steps.params.text import Prompts, TextTransformer, Vocabulary


def _ordered(bounds: list[float]) -> list[float]:
    low, high = bounds
    if low > high:
        raise ValueError(f"{low:g} is above {high:g}")
    return bounds


Bounds = Annotated[list[float], Len(2, 2), AfterValidator(_ordered)]


class SoftmaxLoss(Params):
    """CLIP's: an image picks its caption among all of the batch, and a caption its image."""

    name: Literal["softmax"]
    logit_scale: float = 2.659260036932778
    """Logarithm of the inverse temperature at the start: ln(1 / 0.07)."""
    logit_scale_clamp: Bounds | None = [0.0, 4.605170185988092]
    """Low and high of that logarithm after a step: 0 and ln 100."""


class SigmoidLoss(Params):
    """SigLIP's: each pair of an image and a caption is a binary decision."""

    name: Literal["sigmoid"]
    logit_scale: float = 2.302585092994046
    """Logarithm of the inverse temperature at the start: ln 10."""
    logit_scale_clamp: Bounds | None = None
    logit_bias: float = -10.0


class CLIPParams(Method):
    """Contrastive language-image pretraining (arXiv:2103.00020; SigLIP: arXiv:2303.15343)."""

    kind = "Language"
    family = "language"
    reads = "features"
    rotary = True
    text = True
    compares = "tells a caption from the others of its batch"
    name: Literal["clip"]
    embed_dim: Count
    """Width of the space that images and captions share."""
    text_tower: TextTransformer
    vocabulary: Vocabulary
    prompts: Prompts | None = None
    """Captions for a set with labels: one of these, the class's name put in. null: the set's own
    captions."""
    loss: Annotated[SoftmaxLoss | SigmoidLoss, Field(discriminator="name")]
