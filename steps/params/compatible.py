"""Whether a recipe and a backbone fit each other."""

from __future__ import annotations

from pathlib import Path

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.recipe import Recipe
from steps.params.views import sides


def check_backbone(where: Path, recipe: Recipe, backbone: Backbone, name: str) -> None:
    """A method that reads tokens needs a vision transformer, of patches and depth that it fits.

    Args:
        where: the recipe's file, which the error names.
        recipe: the recipe.
        backbone: what it is to train.
        name: the backbone's.

    Raises:
        UserError: the backbone is a ResNet, and the method reads tokens; or params of the method
            do not fit it, such as a share of its patches that is not one of them.
    """
    if backbone.is_resnet and recipe.method.reads == "tokens":
        raise UserError(
            f"{where}: method.name",
            f"{recipe.method.name} reads the tokens of its backbone, but {name} is a ResNet "
            f"({backbone.architecture})",
            allowed="a vision transformer, such as vit_s16",
            remedy=f"train {recipe.method.name} and {name} in experiments of their own",
        )
    if backbone.patch_size is None or recipe.training is None:
        return
    phases = [recipe.training.views]
    if recipe.training.final_phase is not None:
        phases.append(recipe.training.final_phase.views)
    for views in phases:
        side = sides(views, backbone.image_size)[0] // backbone.patch_size
        misfit = recipe.method.misfit(side**2, backbone.depth)
        if misfit is not None:
            key, found, allowed = misfit
            raise UserError(
                f"{where}: method.{key}",
                found,
                allowed=allowed,
                remedy=f"change the key, or leave backbone {name} out",
            )
