"""Params of linear classification of a frozen backbone: three kinds of protocol, by ``kind``."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import Field, model_validator

from steps.params.base import Params
from steps.params.numbers import Count, NotNegative, Positive
from steps.params.training import Schedule
from steps.params.views import View

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
