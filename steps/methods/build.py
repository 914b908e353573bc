"""From a recipe's method params to its module, found by the method's name."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from timm.models.beit import Beit

from steps.methods.method import Method, MethodContext
from steps.models.backbones import BackboneModel
from steps.models.beit import as_beit, initialise_backbone
from steps.models.dinov2_vit import as_dinov2
from steps.params.backbone import Backbone, BEiTBackbone
from steps.params.methods.dinov2 import DINOv2Backbone
from steps.params.methods.method import Method as MethodParams


def backbone_for(params: MethodParams, backbone: Backbone) -> Backbone:
    """The experiment's backbone as a method's params change it: to a BEiT, or with DINOv2's parts.

    Raises:
        UserError: the method cannot make what it needs of it.
    """
    match getattr(params, "backbone", None):
        case BEiTBackbone() as options:
            return as_beit(backbone, options)
        case DINOv2Backbone() as options:
            return as_dinov2(backbone, options)
    return backbone


def initialise_untrained(params: MethodParams, backbone: BackboneModel) -> None:
    """Give an untrained BEiT the initial values of the methods whose floor it is, drawn from
    torch's global generator. A plain backbone has timm's already.
    """
    if isinstance(options := getattr(params, "backbone", None), BEiTBackbone):
        initialise_backbone(cast(Beit, backbone), options.init_std)


def build_method(params: MethodParams, backbone: BackboneModel, context: MethodContext) -> Method:
    """The method around a backbone, its further modules drawn from torch's global generator.

    Its class is the only ``Method`` that ``steps/methods/<name>.py`` defines.

    Raises:
        ValueError: method random, which trains nothing; a tokenizer is needed and not there.
    """
    if params.name == "random" or (
        params.takes_tokenizer == "required" and context.tokenizer is None
    ):
        raise ValueError(f"method {params.name} trains nothing, or not without its tokenizer")
    # Imported by name, so that a method needs no entry here and runs import only their own.
    module = import_module(f"steps.methods.{params.name}")
    (method,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Method)
        and each.__module__ == module.__name__
    )
    built: Method = method(params, backbone, context)
    return built
