"""Backbones that a method cannot train are refused when params are read, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.fit import check_backbone
from steps.params.load import load, validate
from steps.params.recipe import Recipe
from tests.scenery import BACKBONE, RECIPES, RESNET, Scenery


def _backbone(**model_args: Any) -> dict[str, Any]:
    return {**BACKBONE, "model_args": {**BACKBONE["model_args"], **model_args}}


@pytest.mark.parametrize(
    "key", ["drop_rate", "drop_path_rate", "proj_drop_rate", "patch_drop_rate", "drop_block_rate"]
)
def test_dropout_that_no_seed_sets(key: str, scenery: Scenery) -> None:
    path = scenery.write("backbones/a.yaml", _backbone(**{key: 0.1}))
    with pytest.raises(UserError, match=rf"model_args\.{key} 0\.1 would draw from a generator"):
        load(path, Backbone)
    load(scenery.write("backbones/a.yaml", _backbone(**{key: 0.0})), Backbone)


def _refusal(
    recipe: str, backbone: dict[str, Any] = BACKBONE, training: dict[str, Any] | None = None
) -> str:
    """The line that refuses a recipe on a backbone; empty if it is not refused."""
    content = {**RECIPES[recipe], "training": {**RECIPES[recipe]["training"], **(training or {})}}
    try:
        check_backbone(
            Path("r.yaml"), validate(content, Recipe, "r.yaml"), Backbone(**backbone), "vit"
        )
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("recipe", ["mae", "droppos", "mocov3", "dilemma"])
def test_methods_of_one_position_per_token(recipe: str) -> None:
    assert _refusal(recipe) == ""
    for key, value in {"reg_tokens": 4, "no_embed_class": True, "pos_embed": "none"}.items():
        assert f"which has model_args.{key} {value} |" in _refusal(
            recipe, _backbone(**{key: value})
        )
    assert "reads a class token" in _refusal(recipe, _backbone(class_token=False))


def test_position_prediction_takes_no_registers() -> None:
    assert "reg_tokens 4" in _refusal("mp3", _backbone(reg_tokens=4))
    assert _refusal("mp3", _backbone(pos_embed="none")) == ""
    assert _refusal("dino", _backbone(reg_tokens=4, no_embed_class=True)) == ""


@pytest.mark.parametrize("recipe", ["mae", "droppos", "mocov3"])
def test_a_width_that_the_sine_cosine_table_cannot_have(recipe: str) -> None:
    narrow = _backbone(embed_dim=18)
    assert "its embed_dim is 18 | allowed: a multiple of 4" in _refusal(recipe, narrow)
    assert _refusal("dilemma", narrow) == ""


def _views(*sizes: int | None, **values: Any) -> list[dict[str, Any]]:
    return [{"area": [0.2, 1.0], "size": size, **values} for size in sizes]


@pytest.mark.parametrize("recipe", ["mae", "droppos", "mp3", "dilemma"])
def test_views_of_another_size_than_the_backbone_s(recipe: str) -> None:
    count = 2 if recipe == "dilemma" else 1
    assert _refusal(recipe, training={"views": _views(32, count=count)}) == ""
    message = _refusal(recipe, training={"views": _views(16, count=count)})
    assert message.startswith(f"r.yaml: training.views[0].size: 16 px, and {recipe} takes views")
    assert "allowed: 32, the image_size of vit" in message


@pytest.mark.parametrize("recipe", ["beit", "beit2"])
def test_views_of_another_size_than_the_relative_positions(recipe: str) -> None:
    view = {**RECIPES[recipe]["training"]["views"][0], "size": 16}
    assert "training.views[0].size: 16 px" in _refusal(recipe, training={"views": [view]})


@pytest.mark.parametrize("backbone", [BACKBONE, RESNET])
def test_simclr_takes_views_of_one_size(backbone: dict[str, Any]) -> None:
    assert _refusal("simclr", backbone, {"views": _views(16, 16)}) == ""
    message = _refusal("simclr", backbone, {"views": _views(None, 16)})
    assert message.startswith("r.yaml: training.views: views of 32 and 16 px, and simclr takes")
    assert _refusal("mocov3", backbone, {"views": _views(None, 16)}) == ""


@pytest.mark.parametrize("recipe", ["dino", "ibot", "dinov2"])
def test_global_views_are_of_one_size(recipe: str) -> None:
    message = _refusal(recipe, training={"views": _views(32, 24, 16)})
    assert message.startswith("r.yaml: training.views: global views of 32 and 24 px")
    found = _refusal(recipe, training={"views": _views(32, 32, 24, 16)})
    assert found.startswith("r.yaml: training.views: local views" if recipe == "dinov2" else "")


def test_global_views_of_the_final_phase_are_of_one_size_too() -> None:
    phase = {"epochs": 1, "views": _views(40, 48, 24)}
    message = _refusal("dinov2", training={"final_phase": phase})
    assert message.startswith("r.yaml: training.final_phase.views: global views of 40 and 48 px")
