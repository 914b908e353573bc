"""From a recipe's method params to its module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from timm.models.beit import Beit

from steps.methods.beit import BEiT
from steps.methods.beit2 import BEiT2
from steps.methods.clip import CLIP
from steps.methods.dilemma import DILEMMA
from steps.methods.dino import DINO
from steps.methods.dinov2 import DINOv2
from steps.methods.droppos import DropPos
from steps.methods.ibot import IBOT
from steps.methods.mae import MAE
from steps.methods.method import Method
from steps.methods.mocov3 import MoCoV3
from steps.methods.mp3 import MP3
from steps.methods.simclr import SimCLR
from steps.methods.supervised import Supervised
from steps.models.backbones import BackboneModel
from steps.models.beit import as_beit, initialise_backbone
from steps.models.dinov2_vit import as_dinov2
from steps.models.teacher import Teacher
from steps.models.tokenizer import FrozenTokenizer
from steps.params.backbone import Backbone
from steps.params.methods import (
    BEiT2Params,
    BEiTParams,
    CLIPParams,
    DILEMMAParams,
    DINOParams,
    DINOv2Params,
    DropPosParams,
    IBOTParams,
    MAEParams,
    MethodParams,
    MoCoV3Params,
    MP3Params,
    RandomParams,
    SimCLRParams,
    SupervisedParams,
)


@dataclass(frozen=True)
class MethodContext:
    """What a method may need to know besides its own params and its backbone."""

    views: int
    """How many views of each image the recipe gives."""
    sides: tuple[int, ...] = ()
    """Of each view, in pixels."""
    num_classes: int = 0
    """Classes of the data set (0 where it has none)."""
    teacher: Teacher | None = None
    """The recipe's fixed teacher, frozen and in eval mode."""
    tokenizer: FrozenTokenizer | None = None
    """The recipe's tokenizer, likewise."""
    vocabulary: int = 0
    """Tokens of the captions' encoding (0 where there are no captions)."""


def backbone_for(params: MethodParams, backbone: Backbone) -> Backbone:
    """The experiment's backbone as a method needs it.

    As it is, but for methods that train a BEiT, or add registers, layer scale or gated MLPs.

    Raises:
        UserError: the method cannot make what it needs of it.
    """
    match params:
        case BEiTParams() | BEiT2Params():
            return as_beit(backbone, params.backbone)
        case RandomParams() if params.backbone is not None:
            return as_beit(backbone, params.backbone)
        case DINOv2Params():
            return as_dinov2(backbone, params.backbone)
    return backbone


def initialise_untrained(params: MethodParams, backbone: BackboneModel) -> None:
    """Give an untrained backbone the initial values of the methods whose floor it is, drawn from
    torch's global generator. A plain one has timm's already.
    """
    if isinstance(params, RandomParams) and params.backbone is not None:
        initialise_backbone(cast(Beit, backbone), params.backbone.init_std)


def build_method(params: MethodParams, backbone: BackboneModel, context: MethodContext) -> Method:
    """The method around a backbone, its further modules drawn from torch's global generator.

    Raises:
        ValueError: method random, which trains nothing; a tokenizer is needed and not there.
    """
    match params:
        case MAEParams():
            return MAE(params, backbone)
        case DINOParams():
            return DINO(params, backbone, context.views, context.teacher)
        case IBOTParams():
            return IBOT(params, backbone, context.sides)
        case BEiTParams() if context.tokenizer is not None:
            return BEiT(params, backbone, context.tokenizer)
        case BEiT2Params() if context.tokenizer is not None:
            return BEiT2(params, backbone, context.tokenizer)
        case DINOv2Params():
            return DINOv2(params, backbone, context.sides, context.teacher)
        case SimCLRParams():
            return SimCLR(params, backbone)
        case DropPosParams():
            return DropPos(params, backbone)
        case MP3Params():
            return MP3(params, backbone)
        case CLIPParams():
            return CLIP(params, backbone, context.vocabulary)
        case MoCoV3Params():
            return MoCoV3(params, backbone)
        case DILEMMAParams():
            return DILEMMA(params, backbone)
        case SupervisedParams():
            return Supervised(params, backbone, context.num_classes)
    raise ValueError(f"method {params.name} trains nothing, or not without its tokenizer")
