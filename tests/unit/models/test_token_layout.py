"""A trained backbone and its export give the same features, registers and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import LayerScale
from torch import nn

from steps.command import UserError
from steps.models import dinov2_vit
from steps.models.backbones import create_backbone, save_backbone
from steps.models.positions import Resizing, resize_table
from steps.models.tokens import embed, encode
from steps.params.backbone import Backbone
from steps.params.methods.dinov2 import DINOv2Backbone

PLAIN: dict[str, Any] = {"init_values": 1e-5}
REGISTERS: dict[str, Any] = {"init_values": 1e-5, "reg_tokens": 3, "no_embed_class": True}
# int(2 / 3 * 4 * 24) rounded up to a multiple of 8 is 64, and twice that is 16 / 3 of the width.
GATED: dict[str, Any] = {**REGISTERS, "mlp_ratio": 5.34}


def _backbone(arguments: dict[str, Any], size: int = 32) -> Backbone:
    giant = "mlp_ratio" in arguments
    return Backbone(
        scale="test",
        architecture="vit_giant_patch14_dinov2" if giant else "vit_small_patch14_dinov2",
        image_size=size,
        patch_size=8,
        model_args={"embed_dim": 24, "depth": 2, "num_heads": 2, **arguments},
    )


def _trained(arguments: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    vit = dinov2_vit.for_training(create_backbone(_backbone(arguments)))
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.3)
    return vit


@pytest.mark.parametrize("arguments", [PLAIN, REGISTERS, GATED], ids=["plain", "registers", "glu"])
def test_the_artifact_gives_the_features_of_the_trained_one(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    vit = _trained(arguments)
    save_backbone(
        dinov2_vit.as_timm(vit), _backbone(arguments), tmp_path, mean=[0.5] * 3, std=[0.2] * 3
    )
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        trained = vit.norm(encode(vit, embed(vit, images)))
        torch.testing.assert_close(loaded.forward_features(images), trained, rtol=1e-4, atol=1e-5)
        ours = loaded.norm(encode(loaded, embed(loaded, images)))
        torch.testing.assert_close(ours, trained, rtol=1e-4, atol=1e-5)
    assert trained.shape == (2, 1 + arguments.get("reg_tokens", 0) + 16, 24)


def test_the_trained_one_stays_as_it_is() -> None:
    vit = _trained(REGISTERS)
    before = {name: tensor.clone() for name, tensor in vit.state_dict().items()}
    twin = dinov2_vit.as_timm(vit)
    assert twin.pos_embed.shape[1] == 16
    assert vit.pos_embed.shape[1] == 17
    after = vit.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_registers_get_no_position() -> None:
    vit = _trained(REGISTERS)
    tokens = embed(vit, torch.randn(1, 3, 32, 32))
    assert torch.equal(tokens[:, 1:4], vit.reg_token)
    assert torch.equal(tokens[:, :1], vit.cls_token + vit.pos_embed[:, :1])


def test_a_gated_mlp_starts_from_random_weights_on_both_sides() -> None:
    vit = dinov2_vit.for_training(create_backbone(_backbone(GATED)))
    gate, value = vit.blocks[0].mlp.fc1.weight.chunk(2)
    assert vit.blocks[0].mlp.fc2.weight.shape == (24, 64)
    for half in (gate, value):
        assert half.std().item() == pytest.approx(0.02, rel=0.1)
    assert vit.blocks[0].mlp.fc1.bias.abs().sum().item() == 0


def test_registers_with_positions_are_refused() -> None:
    vit = create_backbone(_backbone({"reg_tokens": 2}))
    with pytest.raises(UserError, match="no_embed_class: true"):
        dinov2_vit.for_training(vit)


@pytest.mark.parametrize("arguments", [PLAIN, REGISTERS], ids=["plain", "registers"])
def test_resizing_once_equals_resizing_at_every_step(arguments: dict[str, Any]) -> None:
    vit, resizing = _trained(arguments), Resizing(offset=0, antialias=True)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        before = embed(vit, images, resizing=resizing)
        dinov2_vit.resize(vit, 48, resizing)
        torch.testing.assert_close(embed(vit, images), before)
    assert vit.pos_embed.requires_grad
    assert dinov2_vit.as_timm(vit).patch_embed.img_size == (48, 48)


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(3, 3), (7, 9)])
def test_resizing_is_interpolation(offset: float, antialias: bool, grid: tuple[int, int]) -> None:
    table = torch.randn(1, 1 + 25, 8)
    maps = table[:, 1:].unflatten(1, (5, 5)).permute(0, 3, 1, 2)
    target: dict[str, Any] = {"size": grid}
    if offset:
        target = {"scale_factor": [(side + offset) / 5 for side in grid]}
    expected = nn.functional.interpolate(maps, **target, mode="bicubic", antialias=antialias)
    resized = resize_table(table, grid, 1, Resizing(offset, antialias))
    torch.testing.assert_close(resized[:, 1:], expected.flatten(2).transpose(1, 2))
    assert torch.equal(resized[:, :1], table[:, :1])


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("layer_scale", [0.0, 1e-5])
def test_a_backbone_gets_what_the_params_add(ffn: Any, registers: int, layer_scale: float) -> None:
    plain = _backbone({"embed_dim": 36, "num_heads": 3})
    options = DINOv2Backbone(layer_scale=layer_scale, registers=registers, ffn=ffn)
    vit = create_backbone(dinov2_vit.as_dinov2(plain, options))
    assert (vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads) == (36, 2, 3)
    assert vit.num_prefix_tokens == 1 + registers
    scaled = isinstance(vit.blocks[0].ls1, LayerScale)
    assert scaled == (layer_scale > 0)
    # Two thirds of 144, rounded up to a multiple of 8.
    assert vit.blocks[0].mlp.fc2.in_features == (96 if ffn == "swiglu" else 144)
    assert vit.patch_embed.img_size == (32, 32)


def test_the_giant_has_the_published_width() -> None:
    # Reference: timm's vit_giant_patch14_dinov2, hidden_features 4096.
    plain = _backbone({"embed_dim": 1536, "num_heads": 24})
    args = dinov2_vit.as_dinov2(plain, DINOv2Backbone(ffn="swiglu")).model_args
    assert int(1536 * args["mlp_ratio"]) == 2 * 4096
