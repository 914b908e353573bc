"""Params of a training run: batch, optimiser, schedule, views."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import model_validator

from steps.params.base import Params
from steps.params.numbers import Count, Epochs, NotNegative, Positive
from steps.params.views import Normalise, View


class Optimizer(Params):
    """The update rule, its learning rate as published and the rule that scales it."""

    name: Literal["adamw", "sgd", "lars"]
    lr: Positive
    """Peak learning rate for a batch of ``lr_batch``."""
    lr_batch: Annotated[int, Ge(1)] | None = 256
    """The batch that ``lr`` is given for; null: ``lr`` holds as it is."""
    lr_scaling: Literal["linear", "sqrt"] = "linear"
    weight_decay: NotNegative
    weight_decay_end: NotNegative | None = None
    """Where a cosine takes the weight decay at the end of training; null: constant."""
    betas: Annotated[list[Annotated[float, Ge(0), Lt(1)]], Len(2, 2)] = [0.9, 0.999]
    eps: Positive = 1e-8
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Of sgd and lars."""
    trust_coefficient: Positive = 0.001
    """Of lars."""
    layer_decay: Annotated[float, Gt(0)] = 1.0
    """Layer-wise decay of the learning rate, from the head down to the patch embedding."""
    patch_embed_scale: Positive = 1.0
    """What the patch embedding's learning rate is multiplied by besides (DINOv2)."""
    decay: Literal["matrices", "all"] = "matrices"
    """What weight decay reaches: no bias and no tensor with one axis (matrices), or every trained
    parameter (MoCo v3; lars itself passes over tensors with one axis)."""
    undecayed: list[str] = []
    """Parameters that weight decay skips besides, by the last part of their name."""

    def peak_lr(self, batch_size: int) -> float:
        """The learning rate at the end of warm-up for a global batch."""
        if self.lr_batch is None:
            return self.lr
        share = batch_size / self.lr_batch
        return self.lr * (share if self.lr_scaling == "linear" else share**0.5)


class Schedule(Params):
    """Linear warm-up, then a cosine to ``min_lr``, updated at every step."""

    warmup_epochs: NotNegative
    warmup_lr: NotNegative = 0.0
    min_lr: NotNegative = 0.0
    ramp: Literal["exclusive", "inclusive", "shifted"] = "exclusive"
    """Whether the last warm-up step is one short of the peak (MAE) or at it (DINO, BEiT), or the
    whole ramp is a step early, so that the first rate is not ``warmup_lr`` (CLIP)."""


class ClipGrad(Params):
    """Gradient clipping by 2-norm: of each tensor by itself (DINO), of each of the method's
    submodules (DINOv2: backbone and heads), or of all together."""

    max_norm: Positive
    scope: Literal["tensor", "submodule", "global"]


class OnlineKNN(Params):
    """Weighted k-NN on the class token while training goes on: how the features grow.

    It costs time (a forward pass over ``train`` + ``val`` images each time) but changes nothing of
    the run; the protocol ``knn`` is what the tables take.
    """

    every_epochs: Positive
    train: Count = 5000
    """Images of the training split to compare with, evenly spread over it."""
    val: Count = 1000
    k: Count = 20
    temperature: Positive = 0.07


class FinalPhase(Params):
    """A short run from where the main one ended, on other views: higher resolution.

    The optimiser starts afresh, and all schedules run once more, compressed to these epochs
    (DINOv2, arXiv:2304.07193, appendix B.2).
    """

    epochs: Epochs
    """Besides those of the main phase."""
    lr_scale: Positive = 1.0
    """What the peak learning rate is multiplied by."""
    max_batch_per_device: Count | None = None
    """null: as in the main phase."""
    views: Annotated[list[View], Len(1)]


class Training(Params):
    """A training run. ``batch_size`` is global: devices and accumulation derive from it."""

    epochs: Epochs
    length: Annotated[Positive, Le(1000)] = 1.0
    """Factor on ``epochs``, all schedules stretched with them: what is given in epochs, such as
    warm-up, keeps its part of the run."""
    batch_size: Annotated[int, Ge(1)]
    max_batch_per_device: Annotated[int, Ge(1)]
    """The most images that go through a device at a time; gradients accumulate over the rest."""
    precision: Literal["fp32", "bf16"] = "fp32"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several devices share a network: each has all of it (ddp), or its rows of every weight,
    gradient and optimiser state (fsdp), for what is too large for one. The losses are the same."""
    optimizer: Optimizer
    schedule: Schedule
    clip_grad: ClipGrad | None = None
    views: Annotated[list[View], Len(1)]
    final_phase: FinalPhase | None = None
    normalise: Normalise | None = None
    """Of what the method sees, and of what its backbone expects ever after; null: by the data
    set's own mean and deviation. Mean 0 and std 1 leave values in 0 to 1 (SimCLR)."""
    log_every: Annotated[int, Ge(1)] = 10
    """Steps between two lines of metrics.jsonl, each the mean over the steps since the last."""
    knn: OnlineKNN | None = None
    """Log a k-NN accuracy along the way, on a set with labels."""
    checkpoint_seconds: Positive = 60.0
    workers: Annotated[int, Ge(0)] = 1
    """Processes that load images for each device; they do not change what is loaded."""
    deterministic: bool = True

    def check_final_phase(self, what: str, *, allowed: bool) -> None:
        """Raise ValueError where there is a final phase that ``what`` cannot have."""
        if self.final_phase is not None and not allowed:
            raise ValueError(f"{what} has no final phase: remove training.final_phase")

    def check_second_images(self, what: str, wanted: bool) -> None:
        """Raise ValueError where a view lacks the second image that ``what`` takes, or has one."""
        for index, view in enumerate(self.views):
            if wanted and view.second is None:
                raise ValueError(
                    f"{what} needs the key training.views[{index}].second, the image of the same "
                    "crop that the tokenizer sees"
                )
            if not wanted and view.second is not None:
                raise ValueError(f"{what} takes no second image: remove views[{index}].second")

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs} is above epochs "
                f"{self.epochs}"
            )
        return self
