"""Params of the downstream protocols on classification sets and on sets with captions."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import Field, model_validator

from steps.params.base import Count, NotNegative, Params, Positive, Probability
from steps.params.methods.baselines import SupervisedParams
from steps.params.recipe import Schedule, Training
from steps.params.text import Prompts
from steps.params.views import View

# --- Params of linear classification of a frozen backbone: three kinds of protocol, by ``kind``


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
    """Learning rates for a batch of 256; where several, the one that is best on ``held_out`` of
    the training set is trained again on all of it."""
    held_out: HeldOut = 0.1
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: NotNegative = 0.0


class LogReg(Params):
    """L2-regularised logistic regression on cached frozen features, solved to convergence."""

    kind: Literal["logreg"]
    poolings: Poolings
    """Concatenated in this order."""
    c: Annotated[list[Positive], Len(1)]
    """Inverse strengths of regularisation: the loss is c * sum of cross entropies + |w|^2 / 2.
    Where several, the one that is best on ``held_out`` of the training set is fitted again on all
    of it."""
    held_out: HeldOut = 0.1
    max_iterations: Count
    tolerance: Positive
    """The solver ends where the loss of a sample, or its largest gradient, changes by less."""


class Probe(Params):
    """Linear classifiers trained on augmented images through the frozen backbone, in one pass.

    Every combination of ``blocks``, ``poolings`` and ``lr`` is a classifier of its own. Where there
    are several, ``held_out`` of the training set is kept from training, and the one that is best
    there is measured on the validation set.
    """

    kind: Literal["augmented"]
    blocks: Annotated[list[Count], Len(1)]
    """How many of the last blocks' class tokens a classifier reads."""
    poolings: Annotated[list[ProbePooling], Len(1)]
    """cls: those alone; cls_mean: the last block's mean patch token behind them (DINOv2);
    cls_mean_interleaved: both, of one block, element by element (DINO)."""
    lr: Annotated[list[Positive], Len(1)]
    """Peak learning rates for a batch of 256."""
    batch_norm: bool = False
    """Normalise the features by those of the global batch, without affine (MAE)."""
    init: Literal["normal", "truncated"] = "normal"
    """Weights of deviation 0.01, bias zero; or the bias as torch's layer has it (MAE)."""
    optimizer: Literal["sgd", "lars"] = "sgd"
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: NotNegative = 0.0
    trust_coefficient: Positive = 0.001
    """Of lars."""
    epochs: Count
    epoch_length: Count | None = None
    """Steps that count as an epoch; null: one pass over the training images."""
    schedule: Schedule
    rate_changes: Literal["step", "epoch"] = "step"
    """Whether the learning rate moves at every step, or once an epoch (DINO)."""
    batch_size: Count
    """Global: devices and what they take at a time derive from it."""
    max_batch_per_device: Count
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the backbone's pass; classifiers are trained in fp32."""
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
            raise ValueError(f"cls_mean_interleaved is of one block, but blocks is {self.blocks}")
        if self.view.count > 1 or self.view.second is not None:
            raise ValueError("view: a probe takes one view of an image, without a second image")
        if self.batch_norm and self.batch_size < 2:
            raise ValueError("batch_norm: a batch of one has no statistics; batch_size 2 or more")
        if self.schedule.min_lr > 0 and len(self.lr) > 1:
            raise ValueError("schedule.min_lr is of one learning rate, but lr has several")
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(f"schedule.warmup_epochs is above epochs {self.epochs}")
        return self


LinearProtocol = Annotated[Linear | LogReg | Probe, Field(discriminator="kind")]
"""What ``steps.linear`` takes."""


# --- Params of semantic segmentation with a linear head on frozen patch tokens


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


# --- Params of the downstream protocols on classification sets and on sets with captions


Share = Annotated[float, Gt(0), Le(1)]


class Features(Params):
    """Frozen features: each pooling of the last block, extracted once."""

    poolings: Poolings
    """cls: the class token after the final norm; mean: the mean of the normed patch tokens. Of a
    ResNet both are the global average."""
    crop_fraction: CropFraction
    """Centre crop: its side over the resized image's short side."""
    batch_size: Annotated[int, Ge(1)] = 256


class KNN(Params):
    """Weighted k-NN classification (Wu et al., arXiv:1805.01978; as used by DINO and DINOv2)."""

    k: Annotated[list[Count], Len(1)]
    """Above the number of training images it counts as that number."""
    headline_k: Count
    """The one whose accuracy a table shows: metrics top1, balanced (the mean over classes of each
    one's recall) and, of more than ten classes, top5."""
    temperature: Positive
    pooling: Pooling
    more_poolings: Annotated[list[Pooling], Len(0, 1)] = []
    """Measured besides, their metrics named by them, such as top1_mean."""
    votes: Literal["exp", "softmax"] = "exp"
    """exp(similarity / temperature) as DINO, or its softmax over the largest k as DINOv2, before
    smaller ones are cut from it. Both predict the same."""
    per_class: bool = False
    """Record the balanced accuracy of every k and every few-shot set (balanced_k10), not only of
    the headline."""
    samples_per_class: list[Count] = []
    """Few-shot training sets besides the whole one: so many images of each class. There k is each
    of ``k`` that is not above that number, and the number itself (DINOv2)."""
    tries: Count = 1
    """Few-shot sets drawn of each size; the recorded accuracy is their mean."""
    chunk: Count = 1024
    """Queries a block. In memory is a block of similarities, chunk x bank_chunk; the result does
    not depend on either."""
    bank_chunk: Count = 16384
    """Training images a block."""

    @model_validator(mode="after")
    def _consistent(self) -> KNN:
        if self.headline_k not in self.k:
            raise ValueError(f"headline_k {self.headline_k} is not among k {self.k}")
        if self.pooling in self.more_poolings:
            raise ValueError(f"more_poolings names {self.pooling}, which is pooling itself")
        if self.tries > 1 and not self.samples_per_class:
            raise ValueError("tries needs samples_per_class: only few-shot sets are drawn")
        return self


class Finetune(Params):
    """End-to-end fine-tuning of the backbone with a new linear head."""

    method: SupervisedParams
    training: Training
    """An epoch is one pass over the labelled images."""
    label_share: Share = 1.0
    """How much of each class's training images has labels: 0.01 and 0.1 for few-label tables. The
    seed of the backbone draws them."""
    crop_fraction: CropFraction
    eval_batch_size: Annotated[int, Ge(1)] = 256

    @model_validator(mode="after")
    def _one_image(self) -> Finetune:
        self.training.check_second_images("fine-tuning", wanted=False)
        self.training.check_final_phase("fine-tuning", allowed=False)
        return self


class ZeroShot(Params):
    """Classification by the names of the classes alone (CLIP, arXiv:2103.00020, section 3.1)."""

    prompts: Prompts
    """A class is the mean of what the text tower makes of these."""
    crop_fraction: CropFraction
    batch_size: Count = 256


class Retrieval(Params):
    """Captions by image and images by caption, within the validation set."""

    k: Annotated[list[Count], Len(1)]
    """A query is right if what it belongs with is among the first so many."""
    captions: Count | None = None
    """How many of each image's captions are taken, the first ones (5 on COCO); null: all."""
    crop_fraction: CropFraction
    batch_size: Count = 256


class Layout(Params):
    """The class token's attention against instance masks (DINO, arXiv:2104.14294, figure 4)."""

    mass: Share
    """A head's mask is the fewest patches that hold this share of its attention."""
    image_size: Count | None = None
    """Side in pixels to look at; null: what the backbone was trained at. Positions are resized to
    it. (DINO draws at 480 px what was trained at 224.)"""
    crop_fraction: CropFraction
    batch_size: Count = 64
    shown: Count = 8
    """Images on the sheet."""


class Geometry(Params):
    """Effective rank (arXiv:2210.02885), alignment and uniformity (arXiv:2005.10242)."""

    pooling: Pooling
    view: View
    """Of two such views of each validation image alignment is measured."""
    alpha: Positive = 2.0
    """The power of the distance in the alignment."""
    t: Positive = 2.0
    """Of the potential exp(-t d^2) in the uniformity."""
    crop_fraction: CropFraction
    """Of the whole images, whose effective rank and uniformity are measured."""
    batch_size: Count = 256

    @model_validator(mode="after")
    def _one_view(self) -> Geometry:
        if self.view.count != 1:
            raise ValueError(f"view.count {self.view.count}: two views are made of this one")
        if self.view.second is not None:
            raise ValueError("view.second: there is no tokenizer here to look at it")
        if self.view.size is not None:
            raise ValueError("view.size: views have the backbone's size, as the whole images do")
        return self


class Decode(Params):
    """Linear probes of the factors of drawn images, a probe a factor, on frozen features."""

    probe: Linear
    crop_fraction: CropFraction
    batch_size: Count = 256
    """Images at a time through the backbone."""


class Bias(Decode):
    """Which cue decides where cues conflict (after Geirhos et al., arXiv:1811.12231), by a linear
    probe and by weighted k-NN, both of training images whose cues agree."""

    k: Count
    temperature: Positive
    pooling: Pooling
    """Of k-NN; likewise ``k`` and ``temperature``."""
