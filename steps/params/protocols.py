"""Params of the downstream protocols on classification sets and on sets with captions."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len
from pydantic import model_validator

from steps.params.base import Params
from steps.params.methods import SupervisedParams
from steps.params.numbers import Count, Positive
from steps.params.probes import CropFraction, Linear, Pooling, Poolings
from steps.params.text import Prompts
from steps.params.training import Training
from steps.params.views import View

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
