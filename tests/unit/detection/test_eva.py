"""ViTDet on a backbone with rotary positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steps.command import UserError
from steps.detection.backbone import ViTDet, from_windows, to_windows
from steps.detection.eva import queries
from steps.detection.optimizer import parameter_groups
from steps.models.backbones import create_backbone
from steps.models.positions import Resizing
from steps.params.backbone import Backbone

ARCHITECTURES = (
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_rope_mixed_224",
)


def eva(architecture: str, **arguments: Any) -> Any:
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 2, **arguments}
    made = Backbone(
        scale="test", architecture=architecture, image_size=32, patch_size=8, model_args=sizes
    )
    model = create_backbone(made)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def patches_only(model: Any, architecture: str) -> Any:
    """The same network, made without class token and registers."""
    alone = {"class_token": False, "num_reg_tokens": 0, "global_pool": "avg", "use_fc_norm": False}
    twin = eva(architecture, **alone)
    weights = {name: each for name, each in model.state_dict().items() if "_token" not in name}
    if "pos_embed" in weights:
        weights["pos_embed"] = weights["pos_embed"][:, -model.patch_embed.num_patches :]
    missing, _ = twin.load_state_dict(weights, strict=False)
    assert set(missing) <= {"norm.weight", "norm.bias"}
    return twin


def images(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", [32, 48])
@pytest.mark.parametrize("relative", [None, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_global_attention_gives_the_patch_features_of_timm(
    architecture: str, relative: int | None, side: int
) -> None:
    model = eva(architecture)
    # As timm does it.
    model.resizing = Resizing(offset=0.0, antialias=True)
    twin = patches_only(model, architecture)
    (expected,) = twin.forward_intermediates(
        images(side), indices=1, norm=False, intermediates_only=True
    )
    # Relative tables start at zero, so that they change nothing yet.
    (found,) = ViTDet(model, window_size=None, relative_grid=relative)(images(side))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_window_has_the_positions_of_an_image_of_its_size() -> None:
    model = eva(ARCHITECTURES[0], depth=1)
    vitdet = ViTDet(model, window_size=2, global_indices=())
    x = vitdet.embed(images())
    (rope,) = vitdet.rotary_positions((4, 4))
    found = vitdet.block(0, x, rope)
    windows = to_windows(x, 2)
    alone = ViTDet(eva(ARCHITECTURES[0], depth=1), window_size=None)
    (own,) = alone.rotary_positions((2, 2))
    expected = from_windows(alone.block(0, windows, own), 2, 4, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_learns(architecture: str) -> None:
    vitdet = ViTDet(
        eva(architecture).train(),
        window_size=2,
        global_blocks=1,
        relative_grid=4,
        checkpoint_activations=True,
    )
    (found,) = vitdet(images())
    found.square().mean().backward()
    for name, parameter in vitdet.named_parameters():
        assert parameter.grad is not None, name
    detector = nn.Module()
    detector.backbone = vitdet
    groups = parameter_groups(detector, 3, 1.0, 0.1, 0.5)
    layers = {id(each): group["name"] for group in groups for each in group["params"]}
    named = dict(detector.named_parameters())
    assert layers[id(named["backbone.blocks.2.attn.proj.weight"])] == "layer_3_decay"
    if "backbone.blocks.0.gamma_1" in named:
        assert layers[id(named["backbone.blocks.0.gamma_1"])] == "layer_1_no_decay"
    if "backbone.rotary.rope.freqs" in named:
        assert layers[id(named["backbone.rotary.rope.freqs"])] == "layer_0_no_decay"


@pytest.mark.parametrize(
    "arguments", [{}, {"qkv_fused": False}, {"attn_type": "rope", "qk_norm": True}]
)
@torch.no_grad()
def test_queries_are_those_of_the_attention(arguments: dict[str, Any]) -> None:
    attn = eva("eva02_tiny_patch14_224", **arguments).blocks[0].attn
    x = torch.randn(2, 9, 32)
    seen: list[Tensor] = []
    attn.q_norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    attn(x)
    found = queries(attn, x)
    torch.testing.assert_close(found, seen[0], rtol=1e-5, atol=1e-6)


def test_norms_after_the_branches_are_refused() -> None:
    model = eva("eva02_tiny_patch14_224", use_post_norm=True)
    with pytest.raises(UserError, match="norms after attention and MLP"):
        ViTDet(model, window_size=None)
