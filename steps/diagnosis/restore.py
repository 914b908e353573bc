"""A pretraining artifact as the method that made it: backbone and heads together."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.methods import Method, Surroundings, build_method
from steps.methods.build import backbone_for
from steps.models.backbones import HEADS, WEIGHTS, create_backbone
from steps.params.backbone import Backbone
from steps.params.recipe import Recipe


def restore(artifact: Path) -> Method:
    """The trained method, on the CPU, in eval mode.

    Args:
        artifact: of a method whose exported backbone is the one that it trains.

    Raises:
        UserError: the artifact is none of a pretraining, or has no heads beside its backbone.
    """
    manifest = read_manifest(artifact, "pretrain")
    if not (artifact / HEADS).is_file():
        raise UserError(
            str(artifact),
            f"method {manifest.facts['method']} keeps no {HEADS}, so there is nothing to draw",
        )
    if "recipe" not in manifest.params:
        raise UserError(
            str(artifact),
            "imported from an official file, whose heads are not restored",
            allowed="an artifact that steps.pretrain made",
        )
    recipe = Recipe.model_validate(manifest.params["recipe"])
    backbone = Backbone.model_validate(manifest.params["backbone"])
    vit = create_backbone(backbone_for(recipe.method, backbone))
    method = build_method(recipe.method, vit, Surroundings(views=1))
    weights = {f"backbone.{name}": w for name, w in load_file(artifact / WEIGHTS).items()}
    method.load_state_dict({**weights, **load_file(artifact / HEADS)})
    return method.eval()
