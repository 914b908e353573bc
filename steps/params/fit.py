"""Checks that a recipe and a backbone fit each other, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.methods.method import Method
from steps.params.recipe import Recipe
from steps.params.views import View, sides

_PLAIN = {"reg_tokens": 0, "no_embed_class": False, "pos_embed": "learn"}
"""timm's arguments, at the values that give each token but registers a learnt position."""


def check_backbone(where: Path, recipe: Recipe, backbone: Backbone, name: str) -> None:
    """Refuse a backbone that the method of a recipe cannot train.

    Args:
        where: the recipe's file, which the error names.
        recipe: the recipe.
        backbone: the backbone to train.
        name: its name.

    Raises:
        UserError: the backbone is a ResNet, and the method reads tokens; its positions are rotary,
            and the method cannot train that; it has no class token, or other tokens or positions
            than the method takes; views have sizes that the method does not take; or a key of the
            method does not fit its patches or its depth, such as a mask ratio below one patch.
    """
    if backbone.is_resnet and recipe.method.reads == "tokens":
        raise UserError(
            f"{where}: method.name",
            f"{recipe.method.name} reads the tokens of its backbone, but {name} is a ResNet "
            f"({backbone.architecture})",
            allowed="a vision transformer, such as vit_s16",
            remedy=f"train {recipe.method.name} and {name} in experiments of their own",
        )
    changed = getattr(recipe.method, "backbone", None) is not None
    if backbone.is_eva and (changed or not recipe.method.rotary):
        raise UserError(
            f"{where}: method.name",
            f"{recipe.method.name} cannot train {name}, of timm's class Eva with rotary positions "
            f"({backbone.architecture})",
            allowed="a plain vision transformer, such as vit_s16; Eva is trained by simclr, dino, "
            "ibot and supervised",
            remedy=f"train {recipe.method.name} and {name} in experiments of their own",
        )
    if backbone.model_args.get("class_token") is False and recipe.method.needs_class_token:
        raise UserError(
            f"{where}: method.name",
            f"{recipe.method.name} reads a class token, which {name} is without",
            allowed="a backbone with a class token",
            remedy=f"remove model_args.class_token of {name}, or leave the method out",
        )
    if not backbone.is_resnet:
        _check_tokens(where, recipe.method, backbone, name)
    if recipe.training is None:
        return
    phases = {"views": recipe.training.views}
    if recipe.training.final_phase is not None:
        phases["final_phase.views"] = recipe.training.final_phase.views
    for key, views in phases.items():
        _check_sizes(f"{where}: training.{key}", recipe.method, views, backbone, name)
    if backbone.patch_size is None:
        return
    for views in phases.values():
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


def _check_tokens(where: Path, method: Method, backbone: Backbone, name: str) -> None:
    """Refuse registers, other positions and widths that ``model_args`` name.

    ``steps.methods.build`` refuses those that an architecture has by itself.
    """
    if method.takes_tokens == "any":
        return
    arguments, remedy = backbone.model_args, f"change the key of {name}, or leave the method out"
    for key, plain in _PLAIN.items():
        if method.takes_tokens == "no registers" and key != "reg_tokens":
            continue
        if (found := arguments.get(key, plain)) != plain:
            raise UserError(
                f"{where}: method.name",
                f"{method.name} cannot train {name}, which has model_args.{key} {found}",
                allowed=f"{plain}",
                remedy=remedy,
            )
    width = arguments.get("embed_dim", 0)
    if method.takes_tokens == "sine-cosine" and width % 4:
        raise UserError(
            f"{where}: method.name",
            f"{method.name} gives {name} the sine-cosine table, and its embed_dim is {width}",
            allowed="a multiple of 4",
            remedy=remedy,
        )


def _check_sizes(
    where: str, method: Method, views: Sequence[View], backbone: Backbone, name: str
) -> None:
    """Refuse views of sizes that the method does not take."""
    side = backbone.image_size
    if method.view_sizes == "backbone":
        for index, view in enumerate(views):
            if view.size not in (None, side):
                raise UserError(
                    f"{where}[{index}].size",
                    f"{view.size} px, and {method.name} takes views of the size of its backbone",
                    allowed=f"{side}, the image_size of {name}",
                    remedy="remove the key, or name a backbone of another size",
                )
        return
    found, first = sides(views, side), getattr(method, "global_views", 2)
    alike = {
        "equal": {"views": found},
        "global": {"global views": found[:first]},
        "kinds": {"global views": found[:first], "local views": found[first:]},
    }
    for kind, own in alike.get(method.view_sizes, {}).items():
        if len(set(own)) > 1:
            raise UserError(
                where,
                f"{kind} of {' and '.join(str(each) for each in dict.fromkeys(own))} px, and "
                f"{method.name} takes one size",
                allowed=f"one size of all {kind}",
            )
