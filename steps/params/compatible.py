"""Whether a recipe and a backbone fit each other."""

from __future__ import annotations

from pathlib import Path

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.recipe import Recipe


def check_backbone(where: Path, recipe: Recipe, backbone: Backbone, name: str) -> None:
    """A method that reads tokens needs a vision transformer.

    Args:
        where: the recipe's file, which the error names.
        recipe: the recipe.
        backbone: what it is to train.
        name: the backbone's.

    Raises:
        UserError: the backbone is a ResNet, and the method reads tokens.
    """
    if backbone.is_resnet and recipe.method.reads == "tokens":
        raise UserError(
            f"{where}: method.name",
            f"{recipe.method.name} reads the tokens of its backbone, but {name} is a ResNet "
            f"({backbone.architecture})",
            allowed="a vision transformer, such as vit_s16",
            remedy=f"train {recipe.method.name} and {name} in experiments of their own",
        )
