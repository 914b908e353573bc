"""Params of detection: Mask R-CNN, or Faster R-CNN without masks, or a cascade of either, on a
plain vision transformer (ViTDet, arXiv:2203.16527) or a ResNet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import (
    Field,
    model_validator,
)

from steps.params.base import (
    LATER,
    Count,
    DropPath,
    Interval,
    NotNegative,
    Params,
    Positive,
    Probability,
)

Share = Annotated[float, Gt(0), Lt(1)]
Norm = Literal["layer", "batch", "none"]
"""layer: over the channels at each position (ViTDet). batch: over the batch of all devices."""


class DetectionBackbone(Params):
    """The pretrained backbone inside the detector.

    Windows, global blocks and relative positions are for transformers; a ResNet ignores them.
    """

    window_size: Count | None
    """Side of an attention window in patches; null: all blocks attend globally."""
    global_blocks: Annotated[int, Ge(0)] = 4
    """Number of blocks that attend globally, evenly spaced up to the last one."""
    relative_positions: bool = True
    """Add decomposed relative positions, initialised to zero."""
    drop_path: DropPath = 0.0
    checkpoint_activations: bool = False
    """Recompute each block in the backward pass: less memory, the same numbers."""
    frozen: Annotated[bool, LATER] = False
    """Keep the pretrained weights, and train pyramid and heads alone: AP then tells what the
    features hold, which fine-tuning on many scenes washes out. Maps pass the pretrained final
    norm, as frozen features do elsewhere (DINOv3, arXiv:2508.10104)."""

    @model_validator(mode="after")
    def _frozen_as_pretrained(self) -> DetectionBackbone:
        if not self.frozen:
            return self
        # Each of these changes what a block computes, and no training could make up for it.
        adaptations = {
            "window_size": (self.window_size, None, "null"),
            "relative_positions": (self.relative_positions, False, "false"),
            "drop_path": (self.drop_path, 0.0, "0"),
            "checkpoint_activations": (self.checkpoint_activations, False, "false"),
        }
        for key, (found, needed, said) in adaptations.items():
            if found != needed:
                raise ValueError(f"{key}: {found}, and frozen: true needs {said}")
        return self


class Pyramid(Params):
    """The feature maps of a detector. A ResNet always has FPN's (arXiv:1612.03144)."""

    kind: Literal["simple", "blocks"] = "simple"
    """simple: every level from the last block (ViTDet). blocks: one level per block of several,
    resampled, then FPN (BEiT, iBOT, MAE; arXiv:2111.11429)."""
    channels: Count
    strides: Annotated[list[Count], Len(2)] = [4, 8, 16, 32, 64]
    """Strides of the levels in pixels. Exact for power-of-two patch sizes; otherwise the nearest
    stride that power-of-two resizing can reach. The last level is only for proposals."""
    blocks: list[Annotated[int, Ge(0)]] | None = None
    """For kind blocks: index of the block of each level but the last, finest level first; null:
    evenly spaced up to the last block."""
    upsampling_norm: Literal["batch", "group"] = "batch"
    """For kind blocks: norm between two transposed convolutions; group: in 32 groups."""
    norm: Norm = "none"
    """For kind blocks: norm after each convolution of FPN."""

    @model_validator(mode="after")
    def _consistent(self) -> Pyramid:
        if any(after != 2 * before for before, after in pairwise(self.strides)):
            raise ValueError(f"strides {self.strides}: each must be twice the one before")
        if self.kind == "simple" and self.model_fields_set & {"blocks", "upsampling_norm", "norm"}:
            raise ValueError("blocks, upsampling_norm and norm need kind: blocks")
        if self.blocks is not None:
            if len(self.blocks) != len(self.strides) - 1:
                raise ValueError(
                    f"blocks {self.blocks}: needs one per stride of {self.strides} but the last"
                )
            if any(after <= before for before, after in pairwise(self.blocks)):
                raise ValueError(f"blocks {self.blocks}: each must be above the one before")
        return self


class Proposals(Params):
    """The region proposal network."""

    convs: Count = 2
    anchor_scale: Positive = 8.0
    """Side of an anchor over the stride of its level."""
    anchor_ratios: Annotated[list[Positive], Len(1)] = [0.5, 1.0, 2.0]
    positive_iou: Share = 0.7
    negative_iou: Share = 0.3
    samples: Count = 256
    """Anchors per image in the loss."""
    positive_share: Share = 0.5
    box_loss_beta: NotNegative = 0.0
    """Error of an offset below which the loss is quadratic (smooth L1); 0: L1."""
    nms_iou: Share = 0.7
    train_before_nms: Count = 2000
    """Proposals per level."""
    train_after_nms: Count = 1000
    test_before_nms: Count = 1000
    """Proposals per level."""
    test_after_nms: Count = 1000


class Cascade(Params):
    """A sequence of box heads, each on the boxes of the one before (arXiv:1712.00726)."""

    positive_ious: Annotated[list[Share], Len(2)] = [0.5, 0.6, 0.7]
    """IoU with an object from which a proposal is positive, per stage."""
    offset_weights: Annotated[list[Positive], Len(2)] = [10.0, 20.0, 30.0]
    """Factor on offsets of centres, per stage; offsets of sides have half of it."""
    loss_weights: Annotated[list[Positive], Len(2)] = [1.0, 1.0, 1.0]
    shared_gradient: bool = True
    """Divide the gradient from each box head to the features by the number of stages
    (Detectron2)."""
    resample: bool = False
    """true: sample each stage's proposals, with the objects' own boxes added (mmdet). false: later
    stages take all boxes of the one before (Detectron2)."""
    masks: Literal["first", "each"] = "first"
    """first: one mask head, trained on the first stage's proposals (Detectron2). each: one per
    stage, whose masks are averaged (mmdet)."""

    @model_validator(mode="after")
    def _stages(self) -> Cascade:
        lengths = {len(self.positive_ious), len(self.offset_weights), len(self.loss_weights)}
        if len(lengths) > 1:
            raise ValueError(
                "positive_ious, offset_weights, loss_weights: each needs one value per stage"
            )
        return self


class Heads(Params):
    """The box and the mask head on RoI-aligned features."""

    cascade: Cascade | None = None
    """null: Mask R-CNN (arXiv:1703.06870). Otherwise Cascade Mask R-CNN. Without masks these are
    Faster R-CNN (arXiv:1506.01497) and Cascade R-CNN: the same without a mask head."""

    box_convs: Annotated[int, Ge(0)] = 4
    box_channels: Count
    box_fc: Count
    box_roi: Count = 7
    mask_convs: Annotated[int, Ge(0)] = 4
    mask_channels: Count = 256
    mask_roi: Count = 14
    """Side of the features of a box; the mask has twice this side."""
    finest_scale: Count = 56
    """Boxes with sides below twice this use the finest level; each doubling goes to the next."""
    samples: Count = 512
    """Proposals per image in the loss."""
    positive_share: Share = 0.25
    positive_iou: Share = 0.5
    """For a single box head; a cascade has one value per stage."""
    class_agnostic_boxes: bool = False
    """Predict one box per proposal instead of one per class."""
    box_loss: Literal["l1", "giou"] = "l1"
    """l1: of offsets. giou: of the boxes themselves (arXiv:1902.09630)."""
    box_loss_weight: Positive = 1.0
    box_norm: Norm = "layer"
    """Norm after each convolution of the box head."""
    mask_norm: Norm = "layer"
    """Norm after each convolution of the mask head."""


class Inference(Params):
    """Selection of detections by their scores."""

    score_threshold: Probability = 0.05
    nms_iou: Share = 0.5
    max_per_image: Annotated[int, Ge(1), Le(100)] = 100
    mask_threshold: Probability = 0.5


class RangeCrop(Params):
    """A crop of half the images before resizing (DETR, arXiv:2005.12872, section A.4)."""

    short_sides: Annotated[list[Count], Len(1)]
    """Short sides in pixels, one of which the image is resized to first."""
    sides: Annotated[list[Count], Len(2, 2)]
    """[smallest, largest] height and width of the crop in pixels, within the image."""


class Augmentation(Params):
    """Augmentation of training images before padding."""

    flip: Probability = 0.5
    scale_jitter: Interval | None = None
    """Large-scale jitter: resize to a factor, uniform in [low, high], of ``image_size``, then crop
    to it."""
    short_sides: list[Count] = []
    """Multi-scale training: short sides in pixels, one of which is drawn per image."""
    crop: RangeCrop | None = None
    """Only with ``short_sides``; null: none."""
    min_box: NotNegative = 0.01
    """Shortest side in pixels of a box after the crop; narrower boxes are not targets."""

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        if self.scale_jitter is not None and self.scale_jitter[0] > self.scale_jitter[1]:
            raise ValueError(f"scale_jitter: {self.scale_jitter} is not [low, high]")
        if self.scale_jitter is not None and self.short_sides:
            raise ValueError("scale_jitter and short_sides exclude each other: remove one")
        if self.crop is not None and not self.short_sides:
            raise ValueError("crop needs short_sides")
        return self


class Pictures(Params):
    """The picture of detections, which does not affect any score."""

    images: Count = 6
    """Number of validation images with objects, evenly spaced."""
    min_score: Probability = 0.5
    """Lowest score of a detection that is drawn."""


class StepDecay(Params):
    """Multiply the learning rate by ``gamma`` at each milestone, given as a share of all
    iterations."""

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
    """Peak learning rate, not scaled with ``batch_size``."""
    betas: Annotated[list[Annotated[float, Ge(0), Lt(1)]], Len(2, 2)] = [0.9, 0.999]
    weight_decay: NotNegative
    undecayed: Literal["backbone_norms", "vectors"] = "backbone_norms"
    """Parameters without weight decay, in addition to positions. backbone_norms: norms and layer
    scales of the blocks (ViTDet). vectors: all with one axis, such as biases (BEiT, iBOT)."""
    layer_decay: Annotated[float, Gt(0), Le(1)]
    """Factor on the learning rate from one layer to the one below it."""
    warmup_iterations: Annotated[int, Ge(0)]
    warmup_factor: Annotated[float, Gt(0), Le(1)] = 0.001
    """Start of the linear warm-up, as a share of the peak."""
    decay: Annotated[StepDecay | CosineDecay, Field(discriminator="name")]
    clip_grad: Positive | None = None
    """Largest 2-norm of all gradients together; null: no clipping."""


class Detection(Params):
    """``params/protocols/<protocol>.yaml`` of the task detect."""

    image_size: Count
    """Side in pixels of the square that images are fit into and padded to. With ``short_side``:
    longest that a long side may be."""
    short_side: Count | None = None
    """Short side in pixels that images are resized to, then padded to a multiple of the coarsest
    stride. null: images are fit into the square."""
    epochs: Count
    batch_size: Count
    """Images per step over all devices."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """fp16: mixed precision with loss scaling (mmcv lacks bf16 kernels of RoIAlign)."""
    masks: bool | Literal["auto"] = "auto"
    """Train a mask head and report mask AP too. auto: if the dataset has masks. true: the dataset
    must have masks. false: only boxes, even if it has masks."""
    keep_empty: bool = False
    """Also train on images without annotations."""
    min_image_size: Annotated[int, Ge(0)] = 0
    """Shortest side in pixels of a training image; smaller images are left out."""
    backbone: DetectionBackbone
    pyramid: Pyramid
    proposals: Proposals
    heads: Heads
    inference: Inference = Inference()
    augmentation: Augmentation = Augmentation()
    optimizer: DetectionOptimizer
    pictures: Pictures = Pictures()
    eval_batch_size: Count = 1
    """Images per device."""
    eval_epochs: Count | None = None
    """Epochs between evaluations; null: evaluate only after the last epoch."""
    workers: Annotated[int, Ge(0)] = 0
    """Processes that load images, per device. The number does not change the images."""
    keep_detector: Annotated[bool, LATER] = False
    """Keep the trained detector beside the pictures, for ``steps.detect --predict``: the weights of
    the backbone, as pretrained and as trained, and of the heads. It changes no score."""

    @model_validator(mode="after")
    def _sizes(self) -> Detection:
        if self.augmentation.short_sides and self.short_side is None:
            raise ValueError("augmentation.short_sides needs short_side for the validation images")
        if self.augmentation.scale_jitter is not None and self.short_side is not None:
            raise ValueError("augmentation.scale_jitter fills the square: remove short_side")
        return self
