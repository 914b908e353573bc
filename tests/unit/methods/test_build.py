"""A method is found by its name: its module, its params and a recipe are all that it takes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.methods import MethodContext, build_method
from steps.methods.mae import MAE
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.methods import METHODS, baselines
from steps.params.recipe import Recipe
from tests.processes import REPOSITORY, command, environment
from tests.scenery import BACKBONE, RECIPES, Scenery

METHOD = '''
"""Rotation: tell by how many quarter turns an image was rotated (arXiv:1803.07728)."""

import torch
from torch import nn
from torch.nn import functional as F

from steps.methods.method import Method
from steps.models.features import global_feature


class Rotation(Method):
    def __init__(self, params, backbone, context):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features, params.turns)

    def sample(self, batch, generator):
        return {"turns": torch.randint(self.head.out_features, (batch,), generator=generator)}

    def forward(self, batch, draws, progress):
        (images,) = batch.views
        turned = [image.rot90(int(k), (1, 2)) for image, k in zip(images, draws["turns"])]
        logits = self.head(global_feature(self.backbone, torch.stack(turned)))
        return {"loss": F.cross_entropy(logits, draws["turns"])}

    def export_backbone(self):
        return self.backbone
'''
PARAMS = '''
"""Params of rotation."""

from typing import Literal

from steps.params.base import Count
from steps.params.methods.method import Method


class RotationParams(Method):
    kind = "Generative"
    family = "position"
    reads = "features"
    name: Literal["rotation"]
    turns: Count = 4
'''


@pytest.mark.slow
def test_three_files_train_a_new_method(tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(REPOSITORY / "steps", code / "steps")
    (code / "steps/methods/rotation.py").write_text(METHOD)
    (code / "steps/params/methods/rotation.py").write_text(PARAMS)
    scenery = Scenery(tmp_path)
    recipe = {**RECIPES["mae"], "method": {"name": "rotation"}}
    file, out = scenery.write("recipes/test/rotation.yaml", recipe), tmp_path / "out"
    done = subprocess.run(
        command("steps.pretrain", *scenery.pretrain_arguments(file, scenery.images(), out)),
        cwd=code,
        env=environment(PYTHONPATH=str(code)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_manifest(out, "pretrain").facts["method"] == "rotation"


def test_every_method_has_a_module_of_its_name() -> None:
    backbone = create_backbone(Backbone(**BACKBONE))
    for name in METHODS:
        if name != "random":
            assert (REPOSITORY / f"steps/methods/{name}.py").is_file(), name
    params = Recipe.model_validate(RECIPES["mae"]).method
    method = build_method(params, backbone, MethodContext())
    assert type(method) is MAE


def test_what_trains_nothing_or_lacks_its_tokenizer_is_refused() -> None:
    with torch.device("meta"):
        backbone = create_backbone(Backbone(**BACKBONE))
    with pytest.raises(ValueError, match="method random trains nothing"):
        build_method(baselines.RandomParams(name="random"), backbone, MethodContext())
    beit = Recipe.model_validate(RECIPES["beit"]).method
    with pytest.raises(ValueError, match="method beit trains nothing, or not without"):
        build_method(beit, backbone, MethodContext())


def test_a_pooling_that_no_method_reads_is_not_trained() -> None:
    arguments = {**BACKBONE["model_args"], "global_pool": "map"}
    backbone = create_backbone(Backbone(**{**BACKBONE, "model_args": arguments}))
    params = Recipe.model_validate(RECIPES["mae"]).method
    build_method(params, backbone, MethodContext())
    assert not any(parameter.requires_grad for parameter in backbone.attn_pool.parameters())


@pytest.mark.parametrize(
    ("method", "architecture", "said"),
    [
        ("mae", "vit_small_patch14_reg4_dinov2", "4 registers"),
        ("mp3", "vit_small_patch14_reg4_dinov2", "4 registers"),
        ("dilemma", "vit_base_patch16_siglip_224", "class token"),
        ("mocov3", "vit_base_patch16_siglip_224", "class token"),
    ],
)
def test_tokens_that_an_architecture_has_by_itself(
    method: str, architecture: str, said: str
) -> None:
    """A params file does not tell of them."""
    with torch.device("meta"):
        backbone = create_backbone(Backbone(**{**BACKBONE, "architecture": architecture}))
    params = Recipe.model_validate(RECIPES[method]).method
    with pytest.raises(UserError, match=said):
        build_method(params, backbone, MethodContext())


@pytest.mark.parametrize(
    ("arguments", "said"), [({"pos_embed": "none"}, "0"), ({"no_embed_class": True}, "16")]
)
def test_positions_that_a_method_cannot_take(arguments: dict[str, Any], said: str) -> None:
    arguments = {**BACKBONE["model_args"], **arguments}
    backbone = create_backbone(Backbone(**{**BACKBONE, "model_args": arguments}))
    params = Recipe.model_validate(RECIPES["droppos"]).method
    with pytest.raises(UserError, match=rf"{said} learnt positions for 1 \+ 16 tokens"):
        build_method(params, backbone, MethodContext())
