"""Params of the two baselines: supervised training and random initialisation."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Lt

from steps.params.backbone import BEiTBackbone
from steps.params.base import DropPath, NotNegative, Positive, Probability
from steps.params.methods.method import Method


class RandomParams(Method):
    """Initialisation only: the floor that every pretraining has to beat."""

    kind = "Random"
    family = "untrained"
    reads = "features"
    rotary = True
    takes_init = "none"
    name: Literal["random"]
    backbone: BEiTBackbone | None = None
    """Initialise a BEiT as those methods do that train one: their floor."""


class SupervisedParams(Method):
    """A backbone trained on labels (vision transformers: DeiT, arXiv:2012.12877)."""

    kind = "Supervised"
    family = "supervised"
    reads = "features"
    rotary = True
    name: Literal["supervised"]
    pooling: Literal["cls", "mean"] = "cls"
    """cls: the class token after the final norm. mean: the mean patch token, then a norm of its
    own (MAE's fine-tuning). Of a ResNet both are the global average."""
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
