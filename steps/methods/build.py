"""From a recipe's method params to its module."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer

from steps.methods.dino import DINO
from steps.methods.mae import MAE
from steps.methods.method import Method
from steps.methods.supervised import Supervised
from steps.params.methods import DINOParams, MAEParams, MethodParams, SupervisedParams


def build_method(
    params: MethodParams, backbone: VisionTransformer, *, views: int, num_classes: int
) -> Method:
    """The method around a backbone, its further modules drawn from torch's global generator.

    Args:
        params: the recipe's method.
        backbone: what it trains.
        views: how many views of each image the recipe gives.
        num_classes: classes of the data set (0 where it has none).

    Raises:
        ValueError: method random, which trains nothing.
    """
    match params:
        case MAEParams():
            return MAE(params, backbone)
        case DINOParams():
            return DINO(params, backbone, views)
        case SupervisedParams():
            return Supervised(params, backbone, num_classes)
        case _:
            raise ValueError(f"method {params.name} has nothing to train")
