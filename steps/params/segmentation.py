"""Params of semantic segmentation with a linear head on frozen patch tokens."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Len, Lt
from pydantic import model_validator

from steps.params.base import Params
from steps.params.numbers import Count, NotNegative, Positive, Probability
from steps.params.probes import CropFraction


class Segment(Params):
    """``params/protocols/<protocol>.yaml`` of the task segment.

    Batch norm and a 1x1 convolution on the patch tokens, their logits enlarged (bilinear), as in
    the linear protocol of DINOv2 (arXiv:2304.07193, section 7.4).
    """

    image_size: Count | None = None
    """Side of the square that images are cropped to; null: that of pretraining."""
    blocks: Count = 1
    """Patch tokens of so many last blocks, through the final norm, side by side."""
    epochs: Count
    batch_size: Count
    lr: Positive
    """Peak of AdamW's learning rate, for ``batch_size`` as it is."""
    betas: Annotated[list[Annotated[float, Ge(0), Lt(1)]], Len(2, 2)] = [0.9, 0.999]
    weight_decay: NotNegative
    warmup_iterations: Annotated[int, Ge(0)] = 0
    """Linear from almost 0; then the learning rate falls linearly to 0."""
    flip: Probability = 0.5
    scale: Annotated[list[Annotated[float, Ge(1)]], Len(2, 2)] = [1.0, 1.0]
    """[low, high]: a training image's short side over the crop's, which is anywhere in it."""
    crop_fraction: CropFraction = 1.0
    """Centre crop of the validation images; their pixels are those that count."""
    eval_batch_size: Count = 64
    workers: Annotated[int, Ge(0)] = 0
    checkpoint_seconds: Positive = 60.0

    @model_validator(mode="after")
    def _ordered(self) -> Segment:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {self.scale} is not [low, high]")
        return self
