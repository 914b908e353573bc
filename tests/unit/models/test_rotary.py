"""Backbones with rotary positions (timm's Eva) and those without a class token, in every part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import _registry
from torch import Tensor, nn

from steps.command import UserError
from steps.core.schedules import Progress
from steps.engine.optimizers import parameter_groups
from steps.evaluation.probes import FeatureSpec, read_backbone
from steps.methods import Batch, MethodContext, build_method
from steps.models.backbones import create_backbone
from steps.models.features import class_attention, global_feature, last_blocks
from steps.models.tokens import embed, encode
from steps.params.backbone import Backbone
from steps.params.fit import check_backbone
from steps.params.load import validate
from steps.params.recipe import Optimizer, Recipe
from tests.scenery import BACKBONE, RECIPES

DINOV3, EVA02, MIXED = (
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_rope_mixed_224",
)
SIGLIP = "vit_base_patch16_siglip_224"
NO_CLASS = "vit_medium_patch16_rope_reg1_gap_256"


def params(architecture: str, **arguments: Any) -> Backbone:
    sizes = {**BACKBONE["model_args"], **arguments}
    return Backbone(**{**BACKBONE, "architecture": architecture, "model_args": sizes})


def backbone(architecture: str, **arguments: Any) -> Any:
    model = create_backbone(params(architecture, **arguments))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_names_tell_the_class() -> None:
    """``Backbone.is_eva`` is read without timm."""
    for name, entry in _registry._model_entrypoints.items():
        if not name.startswith(("beit", "resnet")):
            made = Backbone(**{**BACKBONE, "architecture": name})
            assert made.is_eva == (entry.__module__ == "timm.models.eva"), name


@pytest.mark.parametrize("name", [DINOV3, EVA02, MIXED])
@torch.no_grad()
def test_what_tasks_read(name: str) -> None:
    model = backbone(name)
    tokens = model.forward_features(images())
    assert torch.allclose(global_feature(model, images()), tokens[:, 0], atol=1e-6)
    before, last = last_blocks(model, images(), 2)
    assert torch.allclose(last, tokens, atol=1e-6)
    assert not torch.allclose(before, tokens, atol=1e-3)
    attention = class_attention(model, images())
    assert attention.shape == (2, 2, 16)
    assert (attention.sum(dim=-1) < 1).all()
    with pytest.raises(ValueError, match="no square image"):
        encode(model, torch.zeros(1, model.num_prefix_tokens + 3, 24))


@torch.no_grad()
def test_positions_matter_in_every_block() -> None:
    model = backbone(DINOV3)
    tokens = embed(model, images())
    turned = torch.cat([tokens[:, :5], tokens[:, 5:].flip(1)], dim=1)
    assert not torch.allclose(encode(model, tokens)[:, 0], encode(model, turned)[:, 0], atol=1e-3)


@pytest.mark.parametrize("name", [SIGLIP, NO_CLASS])
@torch.no_grad()
def test_without_a_class_token_pooling_gives_the_image_s_feature(name: str) -> None:
    model = backbone(name)
    expected = model.forward_head(model.forward_features(images()), pre_logits=True)
    feature = global_feature(model, images())
    assert torch.allclose(feature, expected, atol=1e-6)
    reads = [FeatureSpec(1, "cls"), FeatureSpec(2, "cls"), FeatureSpec(1, "cls_mean")]
    found = read_backbone(model, images(), reads)
    assert torch.allclose(found[reads[0]], expected, atol=1e-5)
    assert torch.allclose(found[reads[1]][:, 24:], expected, atol=1e-5)
    before = last_blocks(model, images(), 2)[0][:, model.num_prefix_tokens :].mean(dim=1)
    assert torch.allclose(found[reads[1]][:, :24], before, atol=1e-5)


@pytest.mark.parametrize("name", ["dino", "ibot", "simclr"])
def test_methods_that_train_it(name: str) -> None:
    recipe = validate(RECIPES[name], Recipe, name)
    model = backbone(DINOV3)
    check_backbone(Path("recipe.yaml"), recipe, params(DINOV3), "eva")
    sides = (32, 32) if name == "simclr" else (32, 32, 16, 16)
    method = build_method(recipe.method, model, MethodContext(views=len(sides), sides=sides))
    draws = method.sample(4, torch.Generator().manual_seed(3))
    batch = Batch([images(4, side) for side in sides], torch.zeros(4, dtype=torch.int64))
    method(batch, draws, Progress(0, 1, 4))["loss"].backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad and "last_layer" not in key:
            assert parameter.grad is not None, key


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", [DINOV3, EVA02, MIXED, SIGLIP])
def test_fine_tuning_moves_every_layer_at_its_rate(name: str, pooling: str) -> None:
    protocol = {
        "name": "supervised",
        "pooling": pooling,
        "drop_path": 0.3,
    }
    content = {**RECIPES["supervised"], "method": protocol}
    method = build_method(
        validate(content, Recipe, "supervised").method,
        backbone(name).train(),
        MethodContext(num_classes=3),
    )
    draws = method.sample(4, torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 1, 2, 0])
    losses = method(Batch([images(4)], labels), draws, Progress(0, 1, 4))
    losses["loss"].backward()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
    values = {"name": "adamw", "lr": 1.0, "weight_decay": 0.1, "layer_decay": 0.5}
    optimizer = validate(values, Optimizer, "optimizer")
    groups = parameter_groups(method, optimizer, depth=2)
    scales = {id(each): group["lr_scale"] for group in groups for each in group["params"]}
    named = dict(method.named_parameters())
    assert scales[id(named["backbone.patch_embed.proj.weight"])] == 0.125
    assert scales[id(named["backbone.blocks.1.attn.proj.weight"])] == 0.5
    if name == MIXED:
        assert scales[id(named["backbone.rope.freqs"])] == 0.125


@pytest.mark.parametrize(
    ("method", "architecture", "said"),
    [
        ("mae", DINOV3, "mae cannot train eva, of timm's class Eva with rotary positions"),
        ("beit", DINOV3, "beit cannot train eva"),
        ("dinov2", EVA02, "dinov2 cannot train eva"),
        ("mocov3", MIXED, "mocov3 cannot train eva"),
    ],
)
def test_methods_that_cannot(method: str, architecture: str, said: str) -> None:
    recipe = validate(RECIPES[method], Recipe, method)
    with pytest.raises(UserError) as caught:
        check_backbone(Path("recipe.yaml"), recipe, params(architecture), "eva")
    message = str(caught.value)
    assert message.startswith("recipe.yaml: method.name: ")
    assert said in message
    assert "\n" not in message


def test_a_backbone_without_a_class_token_is_not_trained_by_its_tokens() -> None:
    recipe = validate(RECIPES["dino"], Recipe, "dino")
    with pytest.raises(UserError, match="dino reads a class token, which vit is without"):
        check_backbone(Path("r.yaml"), recipe, params(MIXED, class_token=False), "vit")
    with pytest.raises(UserError, match="it reads a class token, which the backbone is without"):
        build_method(recipe.method, backbone(SIGLIP), MethodContext(views=2, sides=(32, 32)))


def test_positions_that_move_at_random_are_refused() -> None:
    with pytest.raises(ValueError, match="rope_rescale_coords would draw from a generator"):
        params(DINOV3, rope_rescale_coords=2.0)


def test_a_rotary_model_of_timm_for_one_grid_takes_no_other() -> None:
    fixed: Any = timm.create_model(
        EVA02, num_classes=0, img_size=32, patch_size=8, **BACKBONE["model_args"]
    )
    assert isinstance(fixed, nn.Module)
    with pytest.raises(ValueError, match="rotary positions of a grid of"):
        encode(fixed, embed(fixed, images(side=48)))
