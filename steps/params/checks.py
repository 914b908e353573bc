"""Checks of a plan: recipe and backbone fit; sizes, patches, blocks and heads fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.dag import Pretraining, Tokenizer
from steps.params.protocols import Finetune, Probe
from steps.params.recipe import Recipe, Training
from steps.params.views import View, sides

if TYPE_CHECKING:
    from steps.params.plan import Plan

# --- Whether a recipe and a backbone fit each other


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
        incompatibility = recipe.method.incompatibility(side**2, backbone.depth)
        if incompatibility is not None:
            key, found, allowed = incompatibility
            raise UserError(
                f"{where}: method.{key}",
                found,
                allowed=allowed,
                remedy=f"change the key, or leave backbone {name} out",
            )


# --- Whether image sizes, patches, blocks and heads of an experiment fit each other


def check_sizes(plan: Plan) -> None:
    """Every view must fit the patches of every network that it goes through.

    Raises:
        UserError: naming the file and the key at fault.
    """
    for node in plan.needs:
        if isinstance(node, Tokenizer):
            _check_tokenizer(plan, node)
        elif (training := plan.recipes[node.recipe].training) is not None:
            _check_views(plan, plan.recipe_file(node.recipe), training, node.backbone)
            _check_tokens(plan, node, training)
    for protocol, params in plan.protocols.items():
        for name in plan.experiment.backbones:
            if isinstance(params, Finetune):
                _check_views(plan, plan.protocol_file(protocol), params.training, name)
            elif isinstance(params, Probe):
                _check_probe(plan, plan.protocol_file(protocol), params, name)


def _check_views(plan: Plan, path: Path, training: Training, name: str) -> None:
    phases = {"views": training.views}
    if training.final_phase is not None:
        phases["final_phase.views"] = training.final_phase.views
    for key, views in phases.items():
        for index, view in enumerate(views):
            _check_view(plan, f"{path}: training.{key}[{index}].size", view, name)


def _check_view(plan: Plan, where: str, view: View, name: str) -> None:
    backbone = plan.backbones[name]
    size = view.size or backbone.image_size
    if backbone.patch_size is not None and size % backbone.patch_size:
        raise UserError(
            where,
            f"{size} px does not divide into the {backbone.patch_size} px "
            f"patches of backbone {name}",
            allowed=f"a multiple of {backbone.patch_size}",
        )


def _check_probe(plan: Plan, path: Path, probe: Probe, name: str) -> None:
    """A probe reads what the backbone has."""
    _check_view(plan, f"{path}: view.size", probe.view, name)
    backbone = plan.backbones[name]
    if backbone.is_resnet and (probe.blocks, probe.poolings) != ([1], ["cls"]):
        raise UserError(
            f"{path}: poolings",
            f"backbone {name} is a ResNet, which gives one vector an image",
            allowed="blocks [1] and poolings [cls]",
        )
    if backbone.depth is not None and max(probe.blocks) > backbone.depth:
        raise UserError(
            f"{path}: blocks",
            f"{max(probe.blocks)}, but backbone {name} has {backbone.depth} blocks",
            allowed=f"1 to {backbone.depth}",
        )


def _check_tokens(plan: Plan, node: Pretraining, training: Training) -> None:
    """A tokenizer gives one token a patch."""
    name, backbone = plan.recipes[node.recipe].tokenizer, plan.backbones[node.backbone]
    if name is None or backbone.patch_size is None:
        return
    pixels = plan.tokenizers[name].tokenizer.token_pixels
    for index, view in enumerate(training.views):
        size = view.size or backbone.image_size
        second = size if view.second is None else view.second.size or size
        patches = size // backbone.patch_size
        if second != patches * pixels:
            raise UserError(
                f"{plan.recipe_file(node.recipe)}: training.views[{index}].second.size",
                f"{second} px, of which tokenizer {name} makes {second // pixels} tokens a "
                f"side, and backbone {node.backbone} has {patches} patches",
                allowed=f"{patches * pixels}",
            )


def _check_tokenizer(plan: Plan, node: Tokenizer) -> None:
    """A tokenizer and its teacher see the same patches."""
    params = plan.tokenizers[node.name].tokenizer
    for other in plan.needs[node]:
        if isinstance(other, Pretraining):
            patch_size = plan.backbones[other.backbone].patch_size
            if patch_size != params.token_pixels:
                raise UserError(
                    f"{plan.tokenizer_file(node.name)}: teacher.backbone",
                    f"{other.backbone} has patches of {patch_size} px, the tokenizer of "
                    f"{params.token_pixels} px",
                    allowed=f"a backbone with patches of {params.token_pixels} px",
                )
