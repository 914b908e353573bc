"""From a recipe's method params to its module."""

from __future__ import annotations

from dataclasses import dataclass

from timm.models.vision_transformer import VisionTransformer

from steps.methods.dino import DINO
from steps.methods.mae import MAE
from steps.methods.method import Method
from steps.methods.simclr import SimCLR
from steps.methods.supervised import Supervised
from steps.params.methods import (
    DINOParams,
    MAEParams,
    MethodParams,
    SimCLRParams,
    SupervisedParams,
)


@dataclass(frozen=True)
class Surroundings:
    """What a method may need to know besides its own params and its backbone."""

    views: int
    """How many views of each image the recipe gives."""
    num_classes: int = 0
    """Classes of the data set (0 where it has none)."""


def build_method(params: MethodParams, backbone: VisionTransformer, around: Surroundings) -> Method:
    """The method around a backbone, its further modules drawn from torch's global generator.

    Raises:
        ValueError: method random, which trains nothing.
    """
    match params:
        case MAEParams():
            return MAE(params, backbone)
        case DINOParams():
            return DINO(params, backbone, around.views)
        case SimCLRParams():
            return SimCLR(params, backbone)
        case SupervisedParams():
            return Supervised(params, backbone, around.num_classes)
    raise ValueError(f"method {params.name} trains nothing")
