"""Params of the tasks' protocols, all but those of detection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import (
    Field,
    model_validator,
)

from steps.command import UserError
from steps.params.base import LATER, Count, NotNegative, Params, Positive, Probability
from steps.params.methods.baselines import SupervisedParams
from steps.params.recipe import Schedule, Training, check_read
from steps.params.sets import Target
from steps.params.text import Prompts
from steps.params.views import View

# --- Linear classification of a frozen backbone: three kinds of protocol


Pooling = Literal["cls", "mean"]
Poolings = Annotated[list[Pooling], Len(1, 2)]
ProbePooling = Literal["cls", "cls_mean", "cls_mean_interleaved"]
CropFraction = Annotated[float, Gt(0), Le(1)]
HeldOut = Annotated[float, Gt(0), Lt(1)]


class Linear(Params):
    """A linear classifier on cached frozen features, batch-normalised without affine."""

    kind: Literal["cached"]
    poolings: Poolings
    """Concatenated in this order."""
    epochs: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(1)]
    lr: Annotated[list[Positive], Len(1)]
    """Learning rates for a batch of 256. Of several, the best on ``held_out`` of the training set
    is trained again on all of it."""
    held_out: HeldOut = 0.1
    """Share of the training set on which a learning rate is chosen."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: NotNegative = 0.0


class LogReg(Params):
    """L2-regularised logistic regression on cached frozen features, solved to convergence."""

    kind: Literal["logreg"]
    poolings: Poolings
    """Concatenated in this order."""
    c: Annotated[list[Positive], Len(1)]
    """Inverse strengths of regularisation: the loss is c * sum of cross entropies + |w|^2 / 2. Of
    several, the best on ``held_out`` of the training set is fitted again on all of it."""
    held_out: HeldOut = 0.1
    max_iterations: Count
    tolerance: Positive
    """The solver stops when the loss per sample, or its largest gradient, changes by less."""


class Probe(Params):
    """Linear classifiers trained on augmented images through the frozen backbone, in one pass.

    There is one classifier per combination of ``blocks``, ``poolings`` and ``lr``. If there are
    several, ``held_out`` of the training set is kept from training, and the classifier that is best
    there is measured on the validation set.
    """

    kind: Literal["augmented"]
    blocks: Annotated[list[Count], Len(1)]
    """Numbers of last blocks whose class tokens a classifier reads."""
    poolings: Annotated[list[ProbePooling], Len(1)]
    """cls: only class tokens. cls_mean: the last block's mean patch token after them (DINOv2).
    cls_mean_interleaved: both of one block, element by element (DINO)."""
    lr: Annotated[list[Positive], Len(1)]
    """Peak learning rates for a batch of 256."""
    batch_norm: bool = False
    """Normalise features over the global batch, without affine (MAE)."""
    init: Literal["normal", "truncated"] = "normal"
    """normal: weights with standard deviation 0.01, bias zero (DINO, DINOv2). truncated: the same
    weights, truncated, and the bias of torch's linear layer (MAE)."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: NotNegative = 0.0
    trust_coefficient: Positive = 0.001
    """For lars."""
    epochs: Count
    epoch_length: Count | None = None
    """Steps per epoch; null: one pass over the training images."""
    schedule: Schedule
    rate_changes: Literal["step", "epoch"] = "step"
    """Interval of learning rate updates: every step, or every epoch (DINO)."""
    batch_size: Count
    """Images per step over all devices."""
    max_batch_per_device: Count
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the backbone's pass; classifiers are trained in fp32."""
    view: View
    crop_fraction: CropFraction
    """Centre crop of the held-out and validation images."""
    eval_batch_size: Count = 256
    held_out: HeldOut = 0.1
    workers: Annotated[int, Ge(0)] = 1
    checkpoint_seconds: Positive = 60.0
    deterministic: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Probe:
        for key in ("blocks", "poolings", "lr"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names a value twice: {values}")
        if "cls_mean_interleaved" in self.poolings and self.blocks != [1]:
            raise ValueError(f"cls_mean_interleaved needs blocks: [1], but blocks is {self.blocks}")
        if self.view.count > 1 or self.view.second is not None:
            raise ValueError("view: a probe takes one view per image, without a second image")
        if self.batch_norm and self.batch_size < 2:
            raise ValueError("batch_norm: a batch of one has no statistics; batch_size 2 or more")
        check_read(self, self.optimizer, {"trust_coefficient": ("lars",)})
        if self.schedule.min_lr > 0 and len(self.lr) > 1:
            raise ValueError("schedule.min_lr needs a single learning rate, but lr has several")
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(f"schedule.warmup_epochs is above epochs {self.epochs}")
        return self


LinearProtocol = Annotated[Linear | LogReg | Probe, Field(discriminator="kind")]
"""A protocol of ``steps.linear``, by ``kind``."""


# --- Semantic segmentation with a linear head on frozen patch tokens


class Segment(Params):
    """``params/protocols/<protocol>.yaml`` of the task segment.

    The head is batch norm and a 1x1 convolution on the patch tokens; logits are enlarged bilinearly
    (the linear protocol of DINOv2, arXiv:2304.07193, section 7.4).
    """

    image_size: Count | None = None
    """Side in pixels of the square crop of images; null: that of pretraining."""
    blocks: Count = 1
    """Number of last blocks whose patch tokens are concatenated, after the final norm."""
    epochs: Count
    batch_size: Count
    lr: Positive
    """Peak learning rate of AdamW, not scaled with ``batch_size``."""
    betas: Annotated[list[Annotated[float, Ge(0), Lt(1)]], Len(2, 2)] = [0.9, 0.999]
    weight_decay: NotNegative
    warmup_iterations: Annotated[int, Ge(0)] = 0
    """Iterations of linear warm-up from almost 0; the learning rate then falls linearly to 0."""
    flip: Probability = 0.5
    scale: Annotated[list[Annotated[float, Ge(1)]], Len(2, 2)] = [1.0, 1.0]
    """[low, high] of a training image's short side over the crop's side; the crop is placed at
    random."""
    crop_fraction: CropFraction = 1.0
    """Centre crop of the validation images, as a share of their short side. Only pixels in the crop
    are scored."""
    eval_batch_size: Count = 64
    workers: Annotated[int, Ge(0)] = 0
    checkpoint_seconds: Positive = 60.0

    @model_validator(mode="after")
    def _ordered(self) -> Segment:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {self.scale} is not [low, high]")
        return self


# --- The other tasks


Share = Annotated[float, Gt(0), Le(1)]


class Features(Params):
    """Frozen features of the last block, extracted once for several tasks."""

    poolings: Poolings
    """cls: the class token after the final norm. mean: the mean of the patch tokens after it. For a
    ResNet both are the global average."""
    crop_fraction: CropFraction
    """Side of the centre crop over the image's short side."""
    batch_size: Annotated[int, Ge(1)] = 256
    workers: Annotated[int, Ge(0)] = 1
    """Processes that decode beside the one that computes; features do not depend on it."""


class KNN(Params):
    """Weighted k-NN classification (Wu et al., arXiv:1805.01978; as used by DINO and DINOv2)."""

    k: Annotated[list[Count], Len(1)]
    """Numbers of neighbours; at most the number of training images is used."""
    headline_k: Count
    """The k of the metrics top1, balanced (mean recall over classes) and, with more than ten
    classes, top5."""
    temperature: Positive
    pooling: Pooling
    more_poolings: Annotated[list[Pooling], Len(0, 1)] = []
    """Further poolings to measure; their metrics end in the pooling, such as top1_mean."""
    votes: Literal["exp", "softmax"] = "exp"
    """Weight of a neighbour. exp: exp(similarity / temperature) (DINO). softmax: its softmax over
    the largest k, from which smaller k are cut (DINOv2). Both predict the same."""
    per_class: bool = False
    """Record the balanced accuracy of every k and few-shot set (balanced_k10), not only of
    ``headline_k``."""
    samples_per_class: list[Count] = []
    """Images per class of further, few-shot training sets. Their k are the values of ``k`` up to
    this number, and the number itself (DINOv2)."""
    tries: Count = 1
    """Few-shot sets drawn per size; the record is their mean accuracy."""
    chunk: Count = 1024
    """Queries per block. Memory holds a block of chunk x bank_chunk similarities; the result
    depends on neither."""
    bank_chunk: Count = 16384
    """Training images per block."""

    @model_validator(mode="after")
    def _consistent(self) -> KNN:
        if self.headline_k not in self.k:
            raise ValueError(f"headline_k {self.headline_k} is not among k {self.k}")
        if self.pooling in self.more_poolings:
            raise ValueError(f"more_poolings repeats {self.pooling}, the value of pooling")
        if self.tries > 1 and not self.samples_per_class:
            raise ValueError("tries above 1 needs samples_per_class: only few-shot sets are drawn")
        return self


class Finetune(Params):
    """End-to-end fine-tuning of the backbone with a new linear head."""

    method: SupervisedParams
    training: Training
    """An epoch is one pass over the labelled images."""
    label_share: Share = 1.0
    """Share of each class's training images that have labels, such as 0.1 or 0.01. The seed of the
    backbone draws them."""
    crop_fraction: CropFraction
    eval_batch_size: Annotated[int, Ge(1)] = 256

    @model_validator(mode="after")
    def _one_image(self) -> Finetune:
        self.training.check_second_images("fine-tuning", wanted=False)
        self.training.check_final_phase("fine-tuning", allowed=False)
        self.training.check_frozen("fine-tuning", allowed=False)
        self.training.check_kept("fine-tuning")
        return self


class ZeroShot(Params):
    """Classification by class names only (CLIP, arXiv:2103.00020, section 3.1)."""

    prompts: Prompts
    """Prompts of a class, which is represented by the mean of their text embeddings."""
    crop_fraction: CropFraction
    batch_size: Count = 256


class Retrieval(Params):
    """Retrieval of captions by image and images by caption in the validation set."""

    k: Annotated[list[Count], Len(1)]
    """Ranks up to which a match counts as found (R@k)."""
    captions: Count | None = None
    """Number of first captions per image to use (5 on COCO); null: all."""
    crop_fraction: CropFraction
    batch_size: Count = 256


class Layout(Params):
    """The class token's attention against instance masks (DINO, arXiv:2104.14294, figure 4)."""

    mass: Share
    """Share of a head's attention that its mask holds, in the fewest patches."""
    image_size: Count | None = None
    """Side of the images in pixels; null: that of pretraining. Position embeddings are resized.
    (DINO trains at 224 px and draws at 480.)"""
    crop_fraction: CropFraction
    batch_size: Count = 64
    shown: Count = 8
    """Number of images in the picture."""


class LiDAR(Params):
    """Rank of what tells images apart beside what augmentation changes (arXiv:2312.04000), with the
    paper's values for ImageNet-1K."""

    images: Annotated[int, Ge(2)] = 1000
    """Images of the validation set, evenly spaced; all, if it has fewer. The rank is at most one
    less, and at most the width of the features."""
    views: Annotated[int, Ge(2)] = 50
    """Views of each image, drawn as ``view`` says."""
    delta: Positive = 1e-4
    """Added to the variance within images in every direction."""


class Geometry(Params):
    """Effective rank (arXiv:2210.02885), alignment and uniformity (arXiv:2005.10242), and LiDAR
    (arXiv:2312.04000) if asked for."""

    pooling: Pooling
    view: View
    """Alignment is measured between two such views of each validation image."""
    alpha: Positive = 2.0
    """Exponent of the distance in the alignment."""
    t: Positive = 2.0
    """Factor t of the potential exp(-t d^2) in the uniformity."""
    crop_fraction: CropFraction
    """Centre crop of the images that effective rank and uniformity are measured on."""
    lidar: Annotated[LiDAR | None, LATER] = None
    """null: not measured."""
    batch_size: Count = 256

    @model_validator(mode="after")
    def _one_view(self) -> Geometry:
        if self.view.count != 1:
            raise ValueError(
                f"view.count {self.view.count}: must be 1; two views are drawn from it"
            )
        if self.view.second is not None:
            raise ValueError("view.second: this task has no tokenizer; remove the key")
        if self.view.size is not None:
            raise ValueError("view.size: views have the backbone's image size; remove the key")
        return self


class Decode(Params):
    """Linear probes on frozen features, one per factor of drawn images."""

    probe: Linear
    crop_fraction: CropFraction
    batch_size: Count = 256
    """Images per forward pass of the backbone."""


class Bias(Decode):
    """Cue that decides when cues conflict (after Geirhos et al., arXiv:1811.12231), by a linear
    probe and by weighted k-NN, both trained on images whose cues agree."""

    k: Count
    """Neighbours of k-NN."""
    temperature: Positive
    """Temperature of k-NN."""
    pooling: Pooling
    """Features of k-NN."""


# --- Sets with several labels or a number per image


TOLD: dict[Target, str] = {
    "class": "one class per image",
    "classes": "several labels per image",
    "number": "a number per image",
}
"""Kinds of sets in words."""


def check_target(file: Path, protocol: Params, target: Target, dataset: str) -> None:
    """Check that a protocol can measure the target of a set.

    Args:
        file: the protocol's, for errors.
        protocol: of the tasks on labels.
        target: of the set.
        dataset: the set, for errors.

    Raises:
        UserError: it is made for one class per image.
    """
    if target == "class":
        return
    wrong, allowed = "", ""
    if isinstance(protocol, LogReg | Probe):
        wrong, allowed = f"kind: {protocol.kind}", "kind: cached"
    elif isinstance(protocol, KNN) and protocol.samples_per_class:
        wrong, allowed = f"samples_per_class: {protocol.samples_per_class}", "[]"
    elif isinstance(protocol, KNN) and protocol.per_class:
        wrong, allowed = "per_class: true", "false"
    elif isinstance(protocol, Finetune) and target == "number" and protocol.method.label_smoothing:
        wrong, allowed = f"method.label_smoothing: {protocol.method.label_smoothing:g}", "0"
    if wrong:
        raise UserError(
            f"{file}: {wrong.partition(':')[0]}",
            f"{wrong.partition(': ')[2]}, which needs one class per image, and {dataset} has "
            f"{TOLD[target]}",
            allowed=allowed,
            remedy="name another protocol for this set",
        )
