"""Params of a recipe: a method, its training, and the networks that it learns from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import Field, model_validator

from steps.params.base import LATER, Count, Epochs, NotNegative, Params, Positive
from steps.params.budget import Budget
from steps.params.loggers import LoggerName
from steps.params.methods import MethodParams
from steps.params.methods.baselines import RandomParams
from steps.params.methods.method import Need
from steps.params.names import Name, PathText
from steps.params.views import Normalise, View

# --- Networks that a recipe may learn from: a teacher, or a tokenizer


class Teacher(Params):
    """A backbone pretrained in the same regime, on the same dataset, from the same seed."""

    recipe: Name
    """``params/recipes/<regime>/<recipe>.yaml``."""
    backbone: Name
    """``params/backbones/<backbone>.yaml``."""


def check_needs(what: str, needs: Mapping[str, Need], given: Mapping[str, object]) -> None:
    """Raise ValueError if a key that ``what`` needs is missing, or one that it does not take is
    given.

    Args:
        what: owner of the keys, such as "method mae".
        needs: by key.
        given: value of each key, None if it is absent.
    """
    for key, need in needs.items():
        if need == "required" and given[key] is None:
            raise ValueError(f"{what} needs the key '{key}'")
        if need == "none" and given[key] is not None:
            raise ValueError(f"{what} takes no {key}: remove '{key}'")


def check_read(params: Params, rule: str, readers: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError if a key has no effect, since the update rule does not read it.

    A value that is the default is let be: resolved params spell out every key.

    Args:
        params: owner of the keys.
        rule: name of its update rule.
        readers: names of the update rules that read a key.
    """
    for key, names in readers.items():
        if rule not in names and getattr(params, key) != type(params).model_fields[key].default:
            raise ValueError(
                f"{rule} does not read {key}, which is for {' and '.join(names)}: remove '{key}'"
            )


# --- Weights that a recipe starts from


WEIGHT_FILES = (".safetensors", ".pth", ".pth.tar", ".pt", ".bin", ".ckpt")
"""Ends of the names of files that hold weights."""


class Init(Params):
    """Weights that the backbone starts from, in place of random ones: one of these keys."""

    row: Name | None = None
    """A row of the experiment, with the same backbone and seed: an imported checkpoint or another
    recipe. Engines give ``steps.pretrain`` its backbone as ``--init``."""
    artifact: PathText | None = None
    """Folder of a backbone that ``steps.pretrain`` or ``steps.import`` made."""
    timm: PathText | None = None
    """File of a timm model's weights; folder that timm wrote for the hub, with a slash in its path;
    or name of a pretrained model that timm downloads, such as ``vit_small_patch16_224.dino``."""
    transformers: PathText | None = None
    """Folder of a Hugging Face model: ViT, ViTMAE, DINOv2 (with registers too), DINOv3, BEiT, CLIP
    or SigLIP."""

    @property
    def path(self) -> str | None:
        """The file or folder of the weights; None for a row, or a model that timm downloads."""
        timm = self.timm
        if timm is not None and not timm.startswith(("hf-hub:", "hf_hub:")):
            # No name of timm has a slash.
            return timm if timm.endswith(WEIGHT_FILES) or "/" in timm else None
        return self.artifact or self.transformers

    @model_validator(mode="after")
    def _one(self) -> Init:
        given = [key for key, value in self.resolved().items() if value is not None]
        if len(given) != 1:
            said = " and ".join(given) or "no key"
            raise ValueError(
                f"init has {said}; one of row, artifact, timm and transformers is needed"
            )
        return self


# --- Params of a scaling study: recipes at several lengths, on several shares of the images


Share = Annotated[float, Gt(0), Le(1)]


class Scaling(Params):
    """A grid of rows: each method at each length on each share of the images. The experiment's
    ``backbones`` are the third axis."""

    methods: Annotated[list[Name], Len(1)]
    """Methods of the experiment that have a row for every point of the grid."""
    lengths: Annotated[list[Annotated[Positive, Le(1000)]], Len(1)]
    """Factors on the recipe's epochs (``training.length``), or on the experiment's budget."""
    data_shares: Annotated[list[Share], Len(1)] = [1.0]
    """Shares of the training images (``data_share``); an epoch passes over these."""

    @model_validator(mode="after")
    def _once(self) -> Scaling:
        for key, values in self.resolved().items():
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names a value twice")
        for value in (*self.lengths, *self.data_shares):
            if float(f"{value:g}") != value:
                raise ValueError(f"{value!r}: at most six digits are allowed in a row's name")
        return self

    def scaled(self, recipe: str, budget: Budget | None = None) -> Iterator[ScaledRecipe]:
        """Rows of a recipe, shortest first."""
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
    """Budget that sets the length; None: ``length`` does."""

    @property
    def name(self) -> str:
        """Name of the row in tables: mae-x0.5-d25 has half the epochs on 25 % of the images.

        The name leaves out what is as in the recipe: mae-x0.5 is on all images, mae is the recipe
        itself. mae-36tflops is MAE within 36 TFLOPs.
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
        """Options of ``steps.pretrain``; ``steps.tokenizer`` takes those of the budget."""
        length = [] if self.length == 1 else ["--length", f"{self.length:g}"]
        share = [] if self.data_share == 1 else ["--data-share", f"{self.data_share:g}"]
        return length + ([] if self.budget is None else self.budget.options) + share


@dataclass(frozen=True)
class KeptWeights:
    """Weights that a pretraining keeps at an epoch (``training.keep_epochs``)."""

    recipe: str
    """Row of the pretraining."""
    epoch: float

    @property
    def name(self) -> str:
        """Name of the row in tables: mae-e10 has MAE's weights after 10 epochs."""
        return f"{self.recipe}-{epoch_name(self.epoch)}"


def epoch_name(epoch: float) -> str:
    """Name of an epoch in names of rows, and of its folder in a pretraining's artifact: e10."""
    return f"e{epoch:g}"


# --- Params of a training run: batch, optimiser, schedule, views


class Optimizer(Params):
    """The update rule, and the learning rate as published with the rule that scales it."""

    name: Literal["adamw", "sgd", "lars"]
    lr: Positive
    """Peak learning rate for a batch of ``lr_batch``."""
    lr_batch: Annotated[int, Ge(1)] | None = 256
    """Batch that ``lr`` is given for; null: ``lr`` is not scaled."""
    lr_scaling: Literal["linear", "sqrt"] = "linear"
    """Growth of the learning rate with the batch."""
    weight_decay: NotNegative
    weight_decay_end: NotNegative | None = None
    """Weight decay at the end of training, reached by a cosine; null: constant."""
    betas: Annotated[list[Annotated[float, Ge(0), Lt(1)]], Len(2, 2)] = [0.9, 0.999]
    """For adamw."""
    eps: Positive = 1e-8
    """For adamw."""
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """For sgd and lars."""
    trust_coefficient: Positive = 0.001
    """For lars."""
    layer_decay: Annotated[float, Gt(0)] = 1.0
    """Factor on the learning rate from one layer to the one below it, from the head down."""
    patch_embed_scale: Positive = 1.0
    """Additional factor on the learning rate of the patch embedding (DINOv2)."""
    decay: Literal["matrices", "all"] = "matrices"
    """Parameters with weight decay. matrices: no biases and no tensors with one axis. all: every
    trained parameter (MoCo v3; lars itself skips tensors with one axis)."""
    undecayed: list[str] = []
    """Further parameters without weight decay, by the last part of their name; ``cls_token``
    includes registers."""

    @model_validator(mode="after")
    def _check_read(self) -> Optimizer:
        readers = {
            "betas": ("adamw",),
            "eps": ("adamw",),
            "momentum": ("sgd", "lars"),
            "trust_coefficient": ("lars",),
        }
        check_read(self, self.name, readers)
        return self

    def peak_lr(self, batch_size: int) -> float:
        """Learning rate at the end of warm-up for a global batch."""
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
    """End of the warm-up. exclusive: the last warm-up step is one short of the peak (MAE).
    inclusive: it is at the peak (DINO, BEiT). shifted: the whole ramp is one step early, so that
    the first rate is not ``warmup_lr`` (CLIP)."""


class ClipGrad(Params):
    """Gradient clipping by 2-norm."""

    max_norm: Positive
    scope: Literal["tensor", "submodule", "global"]
    """tensor: each by itself (DINO). submodule: each of the method's submodules, such as backbone
    and heads (DINOv2), and its own tokens together. global: all together."""


class OnlineKNN(Params):
    """Weighted k-NN on the class token during training.

    It takes time (a forward pass over ``train`` + ``val`` images each) but does not change the run.
    Tables show the protocol ``knn`` instead.
    """

    every_epochs: Positive
    train: Count = 5000
    """Number of training images to compare with, evenly spaced."""
    val: Count = 1000
    k: Count = 20
    temperature: Positive = 0.07


class FinalPhase(Params):
    """A short run after the main one on other views, such as larger ones.

    The optimiser is reset, and all schedules run again, compressed to these epochs (DINOv2,
    arXiv:2304.07193, appendix B.2).
    """

    epochs: Epochs
    """In addition to those of the main phase."""
    lr_scale: Positive = 1.0
    """Factor on the peak learning rate."""
    max_batch_per_device: Count | None = None
    """null: as in the main phase."""
    views: Annotated[list[View], Len(1)]


class Training(Params):
    """A training run."""

    epochs: Epochs
    length: Annotated[Positive, Le(1000)] = 1.0
    """Factor on ``epochs`` and on everything else given in epochs, such as warm-up."""
    batch_size: Annotated[int, Ge(1)]
    """Images per step over all devices; each device's part and accumulation follow from it."""
    max_batch_per_device: Annotated[int, Ge(1)]
    """Most images that a device processes at a time; gradients accumulate over the rest."""
    precision: Literal["fp32", "bf16"] = "fp32"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Division of the network over devices. ddp: each has all of it. fsdp: each has its rows of
    every weight, gradient and optimiser state, for networks too large for one device. Losses are
    the same."""
    optimizer: Optimizer
    schedule: Schedule
    clip_grad: ClipGrad | None = None
    views: Annotated[list[View], Len(1)]
    final_phase: FinalPhase | None = None
    freeze_backbone_epochs: Annotated[NotNegative, LATER] = 0.0
    """First epochs in which the backbone keeps the weights of ``init`` and only new parts, such as
    heads, are trained. Schedules do not change."""
    normalise: Normalise | None = None
    """Normalisation of the method's inputs, which the exported backbone then expects too. null: the
    dataset's mean and standard deviation, or with ``init`` those that its weights expect. Mean 0
    and std 1 keep values in [0, 1] (SimCLR)."""
    log_every: Annotated[int, Ge(1)] = 10
    """Steps per line of metrics.jsonl, which has means over these steps."""
    knn: OnlineKNN | None = None
    """k-NN accuracy during training; null: none. Left out on a dataset without labels, with a line
    in the log."""
    keep_epochs: Annotated[list[Annotated[Positive, Le(1_000_000)]], LATER] = []
    """Epochs after which the weights are kept. Each is a row of its own, such as ``mae-e10``, so
    that a curve of scores over epochs costs no second training. The schedules are those of the
    whole run: it is not what a run of 10 epochs would end with."""
    on_collapse: Annotated[Literal["warn", "stop"], LATER] = "warn"
    """Reaction to embeddings that no longer tell images apart. warn: a line in the log and a mark
    in the report. stop: the run ends with an error at the step at which it is seen, and keeps a
    checkpoint. Methods without a collapse watch, such as mae, are not stopped."""
    loggers: Annotated[list[LoggerName], LATER] = []
    """Where metrics also go. tensorboard: ``<result>.tensorboard``, beside the backbone. wandb:
    Weights & Biases. Neither this nor ``on_collapse`` changes a result, so a run resumes with
    others."""
    checkpoint_seconds: Positive = 60.0
    """Seconds between checkpoints."""
    workers: Annotated[int, Ge(0)] = 1
    """Processes that load images, per device. The number does not change the images."""
    deterministic: bool = True
    """Use only deterministic operations, so that a repeated run has the same bits."""

    def check_final_phase(self, what: str, *, allowed: bool) -> None:
        """Raise ValueError if there is a final phase but ``what`` cannot have one."""
        if self.final_phase is not None and not allowed:
            raise ValueError(f"{what} has no final phase: remove training.final_phase")

    def check_frozen(self, what: str, *, allowed: bool) -> None:
        """Raise ValueError if the backbone is frozen for a time, but ``what`` starts from no
        weights that this would keep."""
        if self.freeze_backbone_epochs > 0 and not allowed:
            raise ValueError(
                f"training.freeze_backbone_epochs keeps the weights of 'init', and {what} has "
                "none: remove the key"
            )

    def check_second_images(self, what: str, wanted: bool) -> None:
        """Raise ValueError if a view lacks the second image that ``what`` takes, or has an extra
        one."""
        for index, view in enumerate(self.views):
            if wanted and view.second is None:
                raise ValueError(
                    f"{what} needs the key training.views[{index}].second, the image of the same "
                    "crop that the tokenizer sees"
                )
            if not wanted and view.second is not None:
                raise ValueError(f"{what} takes no second image: remove views[{index}].second")

    def check_kept(self, what: str) -> None:
        """Raise ValueError if weights are to be kept along the way of ``what``, which is no row."""
        if self.keep_epochs:
            raise ValueError(
                f"training.keep_epochs makes rows of pretraining, and {what} is none: remove the "
                "key"
            )

    def check_watched(self, what: str) -> None:
        """Raise ValueError if a collapse is to stop ``what``, which has no collapse watch."""
        if self.on_collapse == "stop":
            raise ValueError(
                f"{what} has no collapse watch that could stop it: remove training.on_collapse"
            )

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if len(set(self.loggers)) < len(self.loggers):
            raise ValueError(f"loggers {', '.join(self.loggers)} names one twice")
        for value in self.keep_epochs:
            if value >= self.epochs:
                raise ValueError(
                    f"keep_epochs names {value:g}, and the run ends after {self.epochs:g} epochs, "
                    "whose weights are kept anyway: name epochs before the last"
                )
            if float(f"{value:g}") != value:
                raise ValueError(
                    f"keep_epochs: {value!r}: at most six digits are allowed in a row's name"
                )
        if sorted(set(self.keep_epochs)) != self.keep_epochs:
            raise ValueError(
                f"keep_epochs {self.keep_epochs}: must be in increasing order, each once"
            )
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs} is above epochs "
                f"{self.epochs}"
            )
        if self.freeze_backbone_epochs >= self.epochs:
            raise ValueError(
                f"freeze_backbone_epochs {self.freeze_backbone_epochs:g} leaves none of the "
                f"{self.epochs:g} epochs to train the backbone in"
            )
        return self


# --- A recipe: a method with its hyper-parameters, and how it is trained


class Recipe(Params):
    """``params/recipes/<regime>/<recipe>.yaml``. The file's name is the row's name in tables."""

    method: MethodParams
    teacher: Teacher | None = None
    """Frozen network that the method learns from; it is trained first if it does not exist."""
    tokenizer: Name | None = None
    """``params/tokenizers/<regime>/<tokenizer>.yaml``; the method predicts its tokens."""
    init: Annotated[Init | None, LATER] = None
    """Weights that the backbone starts from (continued pretraining); null: random ones."""
    training: Training | None = None
    trials: Annotated[Count | None, Field(exclude=True)] = None
    """Number of settings of this recipe, itself included, that were tried on another draw of the
    images that tables are measured on, or on images held out. Tables show it. It is no part of a
    run: a change of it makes nothing again."""
    data_share: Share = 1.0
    """Share of the training images, drawn by the seed without regard to labels. All methods get the
    same images, and a larger share contains a smaller one."""

    def scaled(self, length: float, data_share: float) -> Recipe:
        """The recipe at another length, on another share of the images.

        Raises:
            ValueError: the recipe trains nothing.
        """
        if self.training is None:
            raise ValueError(f"method {self.method.name} is initialisation only: no run to scale")
        training = self.training.model_copy(update={"length": length})
        return self.model_copy(update={"training": training, "data_share": data_share})

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        check_needs(
            f"method {self.method.name}",
            {
                "teacher": self.method.takes_teacher,
                "tokenizer": self.method.takes_tokenizer,
                "init": self.method.takes_init,
            },
            {"teacher": self.teacher, "tokenizer": self.tokenizer, "init": self.init},
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
        self.training.check_frozen("the recipe", allowed=self.init is not None)
        if (final := self.training.final_phase) is not None:
            self.method.check_views(sum(view.count for view in final.views))
        return self
