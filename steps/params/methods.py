"""Params of each method: what its paper calls hyper-parameters, views and optimiser aside."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt
from pydantic import Field, model_validator

from steps.params.base import Params
from steps.params.training import NotNegative, Positive
from steps.params.views import Probability

Count = Annotated[int, Ge(1)]
DropPath = Annotated[float, Ge(0), Lt(1)]


class RandomParams(Params):
    """Initialisation only: the floor that every pretraining has to beat."""

    name: Literal["random"]


class SupervisedParams(Params):
    """A vision transformer trained on labels (DeiT, arXiv:2012.12877)."""

    name: Literal["supervised"]
    pooling: Literal["cls", "mean"] = "cls"
    """cls: the class token after the final norm. mean: the mean patch token, then a norm of its
    own (MAE's fine-tuning)."""
    drop_path: DropPath = 0.0
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    mixup: NotNegative = 0.0
    """Alpha of mixup's beta distribution; 0: none."""
    cutmix: NotNegative = 0.0
    mix_probability: Probability = 1.0
    switch_probability: Probability = 0.5
    """Probability of cutmix where both are on."""
    random_erasing: Probability = 0.0
    head_init_std: Positive = 0.02


class MAEDecoder(Params):
    """The narrow transformer that predicts pixels."""

    embed_dim: Count
    depth: Count
    num_heads: Count

    @model_validator(mode="after")
    def _divides(self) -> MAEDecoder:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads")
        if self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of 4 (sin-cos table)")
        return self


class MAEParams(Params):
    """Masked autoencoder (arXiv:2111.06377)."""

    name: Literal["mae"]
    mask_ratio: Annotated[float, Ge(0), Lt(1)]
    norm_pix_loss: bool
    decoder: MAEDecoder


class DINOHead(Params):
    """Projection onto prototypes."""

    layers: Count = 3
    hidden_dim: Count
    bottleneck_dim: Count
    out_dim: Count
    norm_last_layer: bool = True
    """Keep the prototypes' lengths at 1 (True) or train them."""
    use_bn: bool = False


class DINOParams(Params):
    """Self-distillation with no labels (arXiv:2104.14294)."""

    name: Literal["dino"]
    global_views: Annotated[int, Ge(1)] = 2
    """The first so many views go through the teacher too."""
    head: DINOHead
    student_temp: Positive = 0.1
    teacher_temp: Positive
    warmup_teacher_temp: Positive
    warmup_teacher_temp_epochs: Annotated[int, Ge(0)]
    momentum: Annotated[float, Ge(0), Le(1)]
    momentum_end: Annotated[float, Ge(0), Le(1)] = 1.0
    center_momentum: Annotated[float, Ge(0), Le(1)] = 0.9
    freeze_last_layer_epochs: Annotated[int, Ge(0)] = 1
    drop_path: DropPath = 0.0


MethodParams = Annotated[
    RandomParams | SupervisedParams | MAEParams | DINOParams, Field(discriminator="name")
]

KINDS = {
    "random": "Random",
    "supervised": "Supervised",
    "mae": "Generative",
    "dino": "Contrastive",
}
"""Each method's family as the tables print it (DINO counts as contrastive, as in the rankings
that this project is compared with, though it needs no negatives)."""
