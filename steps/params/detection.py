"""Params of detection: Mask R-CNN, Faster R-CNN where there are no masks, or a cascade of either,
on a plain vision transformer (ViTDet, arXiv:2203.16527), or on a ResNet.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import Field, model_validator

from steps.params.base import (
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
"""layer: over the channels of each place (ViTDet); batch: over the batch of all devices."""


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
    """The maps that a detector works on. A ResNet always has FPN's (arXiv:1612.03144)."""

    kind: Literal["simple", "blocks"] = "simple"
    """simple: every level from the last block (ViTDet). blocks: a level each from several blocks,
    resampled, then FPN (BEiT, iBOT, MAE; arXiv:2111.11429)."""
    channels: Count
    strides: Annotated[list[Count], Len(2)] = [4, 8, 16, 32, 64]
    """For a patch of a power of two; with any other patch size the nearest that power-of-two
    scaling of its map reaches. The last level serves proposals alone."""
    blocks: list[Annotated[int, Ge(0)]] | None = None
    """For kind blocks: one for each level but the last, from 0, finest level first; null: evenly
    spaced, the last one among them."""
    upsampling_norm: Literal["batch", "group"] = "batch"
    """For kind blocks: between two transposed convolutions; group: in 32 groups."""
    norm: Norm = "none"
    """For kind blocks: after each convolution of FPN."""

    @model_validator(mode="after")
    def _consistent(self) -> Pyramid:
        if any(after != 2 * before for before, after in pairwise(self.strides)):
            raise ValueError(f"strides {self.strides}: each is to be twice the one before")
        if self.kind == "simple" and self.model_fields_set & {"blocks", "upsampling_norm", "norm"}:
            raise ValueError("blocks, upsampling_norm and norm are for kind blocks")
        if self.blocks is not None:
            if len(self.blocks) != len(self.strides) - 1:
                raise ValueError(
                    f"blocks {self.blocks}: one for each of strides {self.strides} but the last"
                )
            if any(after <= before for before, after in pairwise(self.blocks)):
                raise ValueError(f"blocks {self.blocks}: each is to come after the one before")
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
    box_loss_beta: NotNegative = 0.0
    """Below this error of an offset the loss is quadratic (smooth L1); 0: L1."""
    nms_iou: Share = 0.7
    train_before_nms: Count = 2000
    """For each level; likewise ``test_before_nms``."""
    train_after_nms: Count = 1000
    test_before_nms: Count = 1000
    test_after_nms: Count = 1000


class Cascade(Params):
    """Box heads one after another, each on the boxes of the one before (arXiv:1712.00726)."""

    positive_ious: Annotated[list[Share], Len(2)] = [0.5, 0.6, 0.7]
    """The overlap with an object from which a proposal counts as one, for each stage."""
    offset_weights: Annotated[list[Positive], Len(2)] = [10.0, 20.0, 30.0]
    """What a stage multiplies offsets of centres by; offsets of sides by half of it."""
    loss_weights: Annotated[list[Positive], Len(2)] = [1.0, 1.0, 1.0]
    shared_gradient: bool = True
    """Divide what reaches the features from a box head by the number of stages (Detectron2)."""
    resample: bool = False
    """Draw each stage's proposals anew, with the objects' own boxes (mmdet); else later stages take
    all boxes of the one before (Detectron2)."""
    masks: Literal["first", "each"] = "first"
    """first: one mask head, trained on the first stage's proposals (Detectron2); each: one a stage,
    their masks averaged (mmdet)."""

    @model_validator(mode="after")
    def _stages(self) -> Cascade:
        lengths = {len(self.positive_ious), len(self.offset_weights), len(self.loss_weights)}
        if len(lengths) > 1:
            raise ValueError("positive_ious, offset_weights, loss_weights: one value a stage each")
        return self


class Heads(Params):
    """The box and the mask head on RoI-aligned features."""

    cascade: Cascade | None = None
    """null: Mask R-CNN (arXiv:1703.06870); else Cascade Mask R-CNN. Without masks, Faster R-CNN
    (arXiv:1506.01497) or Cascade R-CNN: the same without mask head."""

    box_convs: Annotated[int, Ge(0)] = 4
    box_channels: Count
    box_fc: Count
    box_roi: Count = 7
    mask_convs: Annotated[int, Ge(0)] = 4
    mask_channels: Count = 256
    mask_roi: Count = 14
    """The mask has twice this side."""
    finest_scale: Count = 56
    """Boxes with sides below twice this go to the finest level, each doubling to the next."""
    samples: Count = 512
    """Proposals an image that the loss is taken over."""
    positive_share: Share = 0.25
    positive_iou: Share = 0.5
    """Of the one box head; a cascade has one of its own for each stage."""
    class_agnostic_boxes: bool = False
    """One box a proposal, not one for each class."""
    box_loss: Literal["l1", "giou"] = "l1"
    """giou: of the boxes themselves (arXiv:1902.09630), not of offsets."""
    box_loss_weight: Positive = 1.0
    box_norm: Norm = "layer"
    """After each convolution of the box head; likewise ``mask_norm``."""
    mask_norm: Norm = "layer"


class Inference(Params):
    """From scores to detections."""

    score_threshold: Probability = 0.05
    nms_iou: Share = 0.5
    max_per_image: Annotated[int, Ge(1), Le(100)] = 100
    mask_threshold: Probability = 0.5


class RangeCrop(Params):
    """Before resizing, half the images are cut (DETR, arXiv:2005.12872, section A.4)."""

    short_sides: Annotated[list[Count], Len(1)]
    """The image is resized to one of these first, whatever its long side."""
    sides: Annotated[list[Count], Len(2, 2)]
    """[least, most] of the cut's height and of its width in pixels, where the image has them."""


class Augmentation(Params):
    """What is done to a training image besides resizing and padding."""

    flip: Probability = 0.5
    scale_jitter: Interval | None = None
    """Large-scale jitter: resize by a factor uniform in [low, high] of ``image_size``, then crop
    to it."""
    short_sides: list[Count] = []
    """Multi-scale training: the short side is one of these, drawn for each image."""
    crop: RangeCrop | None = None
    """With ``short_sides``."""
    min_box: NotNegative = 0.01
    """Boxes left with a narrower side in pixels after the crop are no targets."""

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        if self.scale_jitter is not None and self.scale_jitter[0] > self.scale_jitter[1]:
            raise ValueError(f"scale_jitter: {self.scale_jitter} is not low, high")
        if self.scale_jitter is not None and self.short_sides:
            raise ValueError("scale_jitter and short_sides: one of them")
        if self.crop is not None and not self.short_sides:
            raise ValueError("crop needs short_sides")
        return self


class Pictures(Params):
    """The sheet of detections; it changes no number."""

    images: Count = 6
    """Validation images with objects, evenly spaced."""
    min_score: Probability = 0.5
    """Detections with a lower score are not drawn."""


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
    undecayed: Literal["backbone_norms", "vectors"] = "backbone_norms"
    """What has no weight decay besides positions: norms and layer scales of the blocks (ViTDet), or
    all that has one axis, biases among it (BEiT, iBOT)."""
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
    """Images are resized (aspect kept) and padded to a square of this side; with ``short_side`` it
    is the longest that a long side may be."""
    short_side: Count | None = None
    """Images are resized to this short side and padded to a multiple of the pyramid's coarsest map;
    null: they are fit into the square."""
    epochs: Count
    batch_size: Count
    """Of all devices together."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """fp16: mixed precision with loss scaling (mmcv has no bf16 kernels of RoIAlign)."""
    masks: bool | Literal["auto"] = "auto"
    """A mask head and mask AP beside box AP. auto: where the dataset has masks; true: the dataset
    has to have them; false: boxes alone, whatever the dataset has."""
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
    pictures: Pictures = Pictures()
    eval_batch_size: Count = 1
    """For each device."""
    eval_epochs: Count | None = None
    """Evaluate every so many epochs as well; null: after the last one alone."""
    workers: Annotated[int, Ge(0)] = 0
    """Processes that load images for each device; they do not change what is loaded."""

    @model_validator(mode="after")
    def _sizes(self) -> Detection:
        if self.augmentation.short_sides and self.short_side is None:
            raise ValueError("augmentation.short_sides needs short_side, for the validation images")
        if self.augmentation.scale_jitter is not None and self.short_side is not None:
            raise ValueError("augmentation.scale_jitter fills the square: leave out short_side")
        return self
