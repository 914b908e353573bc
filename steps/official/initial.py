"""Weights that a pretraining starts from: an artifact, a timm model or a transformers folder.

Names and shapes must be those of the backbone that the recipe trains, all of them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from steps.command import UserError
from steps.models.backbones import create_backbone
from steps.official.fit import Fitted, fitted
from steps.official.weights import IMPORT, downloaded, weights_at
from steps.params.backbone import Backbone
from steps.params.recipe import Init


def initial_weights(
    init: Init | None, given: Path | None, backbone: Backbone, recipe: Path, network: Path
) -> Fitted | None:
    """The weights that a run starts from; None if it starts from random ones.

    Args:
        init: as the recipe names them.
        given: a path of the command line, which takes the place of the recipe's.
        backbone: what the method trains.
        recipe, network: files of recipe and backbone, which errors name.

    Raises:
        UserError: weights are given or needed without the other, cannot be read, or do not fit.
    """
    if init is None:
        if given is None:
            return None
        raise UserError(
            f"--init {given}",
            f"{recipe} names no init, so that its row in tables stands for random weights",
            remedy="leave out --init, or take a recipe of continued pretraining, such as "
            f"continue_{recipe.stem}",
        )
    with torch.device("meta"):
        model = create_backbone(backbone)
    if given is not None:
        weights = weights_at(given, f"--init {given}", model)
    elif init.row is not None:
        raise UserError(
            f"{recipe}: init",
            f"row {init.row}, but no --init is given",
            remedy="give --init PATH: a backbone artifact, a file of a timm model's weights, or a "
            "folder of transformers",
        )
    elif init.path is not None:
        weights = weights_at(Path(init.path), f"{recipe}: init", model)
    else:
        weights = downloaded(
            str(init.timm),
            f"{recipe}: init.timm",
            "give a file of its weights: init: {timm: PATH}",
        )
    return fitted(weights, model, f"the recipe trains it on backbone {network}", IMPORT)
