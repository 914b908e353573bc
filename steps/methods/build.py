"""From a recipe's method params to its module, found by the method's name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from timm.models.beit import Beit
from torch import Tensor

from steps.command import UserError
from steps.methods.method import Method, MethodContext
from steps.models.backbones import BackboneModel, Transformer, has_class_token, is_resnet
from steps.models.beit import as_beit, initialise_backbone
from steps.models.dinov2_vit import as_dinov2, trained_layout
from steps.params.backbone import Backbone, BEiTBackbone
from steps.params.methods.dinov2 import DINOv2Backbone
from steps.params.methods.method import Method as MethodParams


def backbone_for(params: MethodParams, backbone: Backbone) -> Backbone:
    """The experiment's backbone as a method's params change it: to a BEiT, or with DINOv2's parts.

    Raises:
        UserError: the method cannot make what it needs of it.
    """
    # By the type of the params, not by the name of the method: several share a BEiT.
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
        UserError: the method reads a class token, and the backbone has none; or it takes no
            registers, or no positions or width such as the backbone has.
    """
    if params.name == "random" or (
        params.takes_tokenizer == "required" and context.tokenizer is None
    ):
        raise ValueError(f"method {params.name} trains nothing, or not without its tokenizer")
    if params.needs_class_token and not (is_resnet(backbone) or has_class_token(backbone)):
        raise UserError(
            f"method {params.name}",
            "it reads a class token, which the backbone is without",
            allowed="a vision transformer with a class token",
            remedy="name another backbone",
        )
    if not is_resnet(backbone):
        _check_tokens(params, backbone)
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
    if has_class_token(backbone):
        # No method reads it, and DDP expects a gradient of all that trains.
        backbone.fc_norm.requires_grad_(False)
        if getattr(backbone, "attn_pool", None) is not None:
            backbone.attn_pool.requires_grad_(False)
    return built


def _check_tokens(params: MethodParams, vit: Transformer) -> None:
    """Refuse registers, other positions and widths that an architecture has by itself.

    Those that params files name are refused by ``steps.params.fit``, before any work.
    """
    if params.takes_tokens == "any":
        return
    found, allowed = "", ""
    patches, table = vit.patch_embed.num_patches, vit.pos_embed
    rows = 0 if table is None else table.shape[1]
    if vit.num_prefix_tokens != 1:
        found, allowed = f"{vit.num_prefix_tokens - 1} registers", "none"
    elif params.takes_tokens != "no registers" and rows != 1 + patches:
        found, allowed = f"{rows} learnt positions for 1 + {patches} tokens", f"{1 + patches}"
    elif params.takes_tokens == "sine-cosine" and vit.embed_dim % 4:
        found, allowed = f"a width of {vit.embed_dim}", "a multiple of 4"
    if found:
        raise UserError(
            f"method {params.name}",
            f"it cannot train a backbone that has {found}",
            allowed=allowed,
            remedy="name another backbone",
        )


def start_from(method: Method, backbone: BackboneModel, weights: Mapping[str, Tensor]) -> list[str]:
    """Give pretrained weights to the backbone of a method that was just built.

    Moving averages (teacher, target network) start as copies of it, as they do of a random one.
    Fixed networks, which the method only learns from, are left alone.

    Args:
        method: the method.
        backbone: the network that it learns with, as given to its constructor.
        weights: every tensor of the backbone as timm has it.

    Returns:
        The parts that keep their random initial values: heads, decoders, mask tokens.

    Raises:
        ValueError: a tensor that the method's backbone does not have.
    """
    # What the weights lack stays as it was drawn and is named; what they have too much is refused.
    own = trained_layout(backbone, weights)
    new, unknown = backbone.load_state_dict(own, strict=False)
    if unknown:
        raise ValueError(f"the backbone of {type(method).__name__} has no {', '.join(unknown)}")
    method.adopt_weights()
    prefixes = []
    for name, module in method.named_modules():
        if isinstance(module, BackboneModel):
            prefixes.append(f"{name}.")
            # A teacher or a target network: it has to start where the student does.
            if module is not backbone:
                module.load_state_dict(backbone.state_dict())
    above = {prefix.split(".")[0] for prefix in prefixes}
    for name in method.state_dict():
        if not name.startswith(tuple(prefixes)):
            first, *rest = name.split(".")
            new.append(".".join([first, *rest[:1]]) if first in above else first)
    return list(dict.fromkeys(new))
