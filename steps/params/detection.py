"""Params of detection: Mask R-CNN on a plain vision transformer (ViTDet, arXiv:2203.16527), or on a
ResNet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import Field, model_validator

from steps.params.base import Params
from steps.params.numbers import (
    Count,
    DropPath,
    Interval,
    NotNegative,
    Positive,
    Probability,
)

Share = Annotated[float, Gt(0), Lt(1)]


class DetectionBackbone(Params):
    """How the pretrained backbone is used inside the detector.

    Windows, global blocks and relative positions are a transformer's; a ResNet passes them over.
    """

    window_size: Count | None
    """Side of an attention window in patches; null: every block attends globally."""
    global_blocks: Annotated[int, Ge(0)] = 4
    """Blocks that attend globally, evenly spaced, the last one among them."""
    relative_positions: bool = True
    """Decomposed relative positions, new and zero at the start."""
    drop_path: DropPath = 0.0
    checkpoint_activations: bool = False
    """Compute each block again on the way back: less memory, the same numbers."""


class Pyramid(Params):
    """The simple feature pyramid; a ResNet has FPN's (arXiv:1612.03144)."""

    channels: Count
    strides: Annotated[list[Count], Len(2)] = [4, 8, 16, 32, 64]
    """For a patch of a power of two; with any other patch size the nearest that power-of-two
    scaling of its map reaches. The last level serves proposals alone."""

    @model_validator(mode="after")
    def _doubles(self) -> Pyramid:
        if any(after != 2 * before for before, after in pairwise(self.strides)):
            raise ValueError(f"strides {self.strides}: each is to be twice the one before")
        return self


class Proposals(Params):
    """The region proposal network."""

    convs: Count = 2
    anchor_scale: Positive = 8.0
    """An anchor's side over its level's stride."""
    anchor_ratios: Annotated[list[Positive], Len(1)] = [0.5, 1.0, 2.0]
    positive_iou: Share = 0.7
    negative_iou: Share = 0.3
    samples: Count = 256
    """Anchors an image that the loss is taken over."""
    positive_share: Share = 0.5
    nms_iou: Share = 0.7
    train_before_nms: Count = 2000
    """For each level; likewise ``test_before_nms``."""
    train_after_nms: Count = 1000
    test_before_nms: Count = 1000
    test_after_nms: Count = 1000


class Heads(Params):
    """The box and the mask head on RoI-aligned features."""

    box_convs: Annotated[int, Ge(0)] = 4
    box_channels: Count
    box_fc: Count
    box_roi: Count = 7
    mask_convs: Annotated[int, Ge(0)] = 4
    mask_channels: Count
    mask_roi: Count = 14
    """The mask has twice this side."""
    finest_scale: Count = 56
    """Boxes with sides below twice this go to the finest level, each doubling to the next."""
    samples: Count = 512
    """Proposals an image that the loss is taken over."""
    positive_share: Share = 0.25
    positive_iou: Share = 0.5


class Inference(Params):
    """From scores to detections."""

    score_threshold: Probability = 0.05
    nms_iou: Share = 0.5
    max_per_image: Annotated[int, Ge(1), Le(100)] = 100
    mask_threshold: Probability = 0.5


class Augmentation(Params):
    """What is done to a training image besides resizing and padding to ``image_size``."""

    flip: Probability = 0.5
    scale_jitter: Interval | None = None
    """Large-scale jitter: resize by a factor uniform in [low, high] of ``image_size``, then crop
    to it."""
    min_box: NotNegative = 0.01
    """Boxes left with a narrower side in pixels after the crop are no targets."""

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        if self.scale_jitter is not None and self.scale_jitter[0] > self.scale_jitter[1]:
            raise ValueError(f"scale_jitter: {self.scale_jitter} is not low, high")
        return self


class StepDecay(Params):
    """Multiply the learning rate by ``gamma`` at each milestone, a share of all iterations."""

    name: Literal["step"]
    milestones: Annotated[list[Share], Len(1)]
    gamma: Share = 0.1


class CosineDecay(Params):
    """A cosine from the peak to ``final_share`` of it."""

    name: Literal["cosine"]
    final_share: Annotated[float, Ge(0), Lt(1)] = 0.0


class DetectionOptimizer(Params):
    """AdamW with layer-wise decay of the learning rate over the backbone."""

    lr: Positive
    """Peak learning rate, for ``batch_size`` as it is."""
    betas: Annotated[list[Annotated[float, Ge(0), Lt(1)]], Len(2, 2)] = [0.9, 0.999]
    weight_decay: NotNegative
    layer_decay: Annotated[float, Gt(0), Le(1)]
    """The learning rate's factor from one layer to the one below it."""
    warmup_iterations: Annotated[int, Ge(0)]
    warmup_factor: Annotated[float, Gt(0), Le(1)] = 0.001
    """Where the linear warm-up starts, as a share of the peak."""
    decay: Annotated[StepDecay | CosineDecay, Field(discriminator="name")]
    clip_grad: Positive | None = None
    """Largest 2-norm of all gradients together."""


class Detection(Params):
    """``params/protocols/<protocol>.yaml`` of the task detect."""

    image_size: Count
    """Images are resized (aspect kept) and padded to a square of this side."""
    epochs: Count
    batch_size: Count
    """Of all devices together."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """fp16: mixed precision with loss scaling (mmcv has no bf16 kernels of RoIAlign)."""
    keep_empty: bool = False
    """Train on images without annotations too."""
    min_image_size: Annotated[int, Ge(0)] = 0
    """Training images with a shorter side in pixels are left out."""
    backbone: DetectionBackbone
    pyramid: Pyramid
    proposals: Proposals
    heads: Heads
    inference: Inference = Inference()
    augmentation: Augmentation = Augmentation()
    optimizer: DetectionOptimizer
    eval_batch_size: Count = 1
    """For each device."""
    eval_epochs: Count | None = None
    """Evaluate every so many epochs as well; null: after the last one alone."""
    workers: Annotated[int, Ge(0)] = 0
    """Processes that load images for each device; they do not change what is loaded."""
