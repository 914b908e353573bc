"""A recipe: a method with its hyper-parameters, how it is trained, and what it stands on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import model_validator

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.base import Count, Epochs, NotNegative, Params, Positive
from steps.params.budget import Budget
from steps.params.methods import MethodParams, RandomParams
from steps.params.methods.method import Need
from steps.params.names import Name
from steps.params.views import Normalise, View, sides

# --- What a recipe may stand on: another backbone of the same experiment, or a tokenizer


class Teacher(Params):
    """A pretraining of the same regime, on the same data set, from the same seed."""

    recipe: Name
    """``params/recipes/<regime>/<recipe>.yaml``."""
    backbone: Name
    """``params/backbones/<backbone>.yaml``."""


def check_needs(what: str, needs: Mapping[str, Need], given: Mapping[str, object]) -> None:
    """Raise ValueError if a key is missing that ``what`` needs, or there that it does not take.

    Args:
        what: whose keys they are, such as "method mae".
        needs: by key.
        given: the value of each key, None where it is absent.
    """
    for key, need in needs.items():
        if need == "required" and given[key] is None:
            raise ValueError(f"{what} needs the key '{key}'")
        if need == "none" and given[key] is not None:
            raise ValueError(f"{what} takes no {key}: remove '{key}'")


# --- Params of a scaling study: recipes at several lengths, on several shares of the images


Share = Annotated[float, Gt(0), Le(1)]


class Scaling(Params):
    """A grid: every method named, at every length, on every share; the other axis of scale is
    the experiment's ``backbones``."""

    methods: Annotated[list[Name], Len(1)]
    """Those of the experiment's methods that have a row for every point of the grid."""
    lengths: Annotated[list[Annotated[Positive, Le(1000)]], Len(1)]
    """Factors on the recipe's epochs (``training.length``), or on the experiment's budget."""
    data_shares: Annotated[list[Share], Len(1)] = [1.0]
    """Of the training images (``data_share``); an epoch goes over these."""

    @model_validator(mode="after")
    def _once(self) -> Scaling:
        for key, values in self.resolved().items():
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names a value twice")
        for value in (*self.lengths, *self.data_shares):
            if float(f"{value:g}") != value:
                raise ValueError(f"{value!r}: at most six digits, which are part of a row's name")
        return self

    def scaled(self, recipe: str, budget: Budget | None = None) -> Iterator[ScaledRecipe]:
        """The rows of a method, from the shortest to the longest."""
        for length in self.lengths:
            for share in self.data_shares:
                if budget is None:
                    yield ScaledRecipe(recipe, length, share)
                else:
                    yield ScaledRecipe(recipe, 1, share, budget.times(length))


@dataclass(frozen=True)
class ScaledRecipe:
    """A recipe at another length or within a budget, on a share of the images."""

    recipe: str
    length: float = 1
    data_share: float = 1
    budget: Budget | None = None
    """Which the length follows from."""

    @property
    def name(self) -> str:
        """Name of the row in tables: mae-x0.5-d25, half as many epochs on 25 % of the images.

        What is as in the recipe is not named: mae-x0.5 is on all images, mae is the recipe, and
        mae-36tflops is MAE within 36 TFLOPs.
        """
        length = "" if self.length == 1 else f"-x{self.length:g}"
        budget = "" if self.budget is None else f"-{self.budget.name}"
        share = "" if self.data_share == 1 else f"-d{100 * self.data_share:g}"
        return f"{self.recipe}{length}{budget}{share}"

    def __str__(self) -> str:
        within = f"length {self.length:g}" if self.budget is None else str(self.budget)
        return f"{self.recipe} at {within} on {100 * self.data_share:g} % of the images"

    @property
    def options(self) -> list[str]:
        """The options of ``steps.pretrain`` that say so; ``steps.tokenizer`` has the budget's."""
        length = [] if self.length == 1 else ["--length", f"{self.length:g}"]
        share = [] if self.data_share == 1 else ["--data-share", f"{self.data_share:g}"]
        return length + ([] if self.budget is None else self.budget.options) + share


# --- Params of a training run: batch, optimiser, schedule, views


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
    """Parameters that weight decay skips besides, by the last part of their name; registers go with
    ``cls_token``."""

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


# --- A recipe: a method with its hyper-parameters, and how it is trained


class Recipe(Params):
    """``params/recipes/<regime>/<recipe>.yaml``. Its file name is the row's name in the tables."""

    method: MethodParams
    teacher: Teacher | None = None
    """The frozen network that the method learns from; trained first, if it is not there."""
    tokenizer: Name | None = None
    """``params/tokenizers/<regime>/<tokenizer>.yaml``, whose tokens the method predicts."""
    training: Training | None = None
    data_share: Share = 1.0
    """Of the training images, drawn without a look at labels, by the seed: the same ones for all
    methods, those of a smaller share among those of a larger."""

    def scaled(self, length: float, data_share: float) -> Recipe:
        """The same at another length, on another share of the images.

        Raises:
            ValueError: nothing is trained by it.
        """
        if self.training is None:
            raise ValueError(f"method {self.method.name} is initialisation only: no run to grow")
        training = self.training.model_copy(update={"length": length})
        return self.model_copy(update={"training": training, "data_share": data_share})

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        check_needs(
            f"method {self.method.name}",
            {"teacher": self.method.takes_teacher, "tokenizer": self.method.takes_tokenizer},
            {"teacher": self.teacher, "tokenizer": self.tokenizer},
        )
        if self.teacher is not None and self.tokenizer is not None:
            raise ValueError("a recipe names a teacher or a tokenizer, not both")
        if isinstance(self.method, RandomParams):
            if self.training is not None:
                raise ValueError("method random is initialisation only: remove 'training'")
            if self.data_share != 1:
                raise ValueError("method random is initialisation only: remove 'data_share'")
            return self
        if self.training is None:
            raise ValueError(f"method {self.method.name} needs the key 'training'")
        self.training.check_second_images(
            f"method {self.method.name}", self.method.takes_second_image
        )
        self.method.check_views(sum(view.count for view in self.training.views))
        self.method.check_run(self.training.batch_size, self.training.epochs)
        what = f"method {self.method.name}"
        self.training.check_final_phase(what, allowed=self.method.final_phase)
        if (final := self.training.final_phase) is not None:
            self.method.check_views(sum(view.count for view in final.views))
        return self


# --- A recipe and a backbone fit each other


def check_backbone(where: Path, recipe: Recipe, backbone: Backbone, name: str) -> None:
    """Refuse a backbone that the method of a recipe cannot train.

    Args:
        where: the recipe's file, which the error names.
        recipe: the recipe.
        backbone: the backbone to train.
        name: its name.

    Raises:
        UserError: the backbone is a ResNet, and the method reads tokens; or a key of the method
            does not fit its patches or its depth, such as a mask ratio below one patch.
    """
    if backbone.is_resnet and recipe.method.reads == "tokens":
        raise UserError(
            f"{where}: method.name",
            f"{recipe.method.name} reads the tokens of its backbone, but {name} is a ResNet "
            f"({backbone.architecture})",
            allowed="a vision transformer, such as vit_s16",
            remedy=f"train {recipe.method.name} and {name} in experiments of their own",
        )
    if backbone.patch_size is None or recipe.training is None:
        return
    phases = [recipe.training.views]
    if recipe.training.final_phase is not None:
        phases.append(recipe.training.final_phase.views)
    for views in phases:
        side = sides(views, backbone.image_size)[0] // backbone.patch_size
        incompatibility = recipe.method.incompatibility(side**2, backbone.depth)
        if incompatibility is not None:
            key, found, allowed = incompatibility
            raise UserError(
                f"{where}: method.{key}",
                found,
                allowed=allowed,
                remedy=f"change the key, or leave backbone {name} out",
            )
