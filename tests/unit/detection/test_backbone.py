"""The ViTDet backbone against timm's own vision transformer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer

from steps.command import UserError
from steps.detection.backbone import (
    ViTDet,
    evenly_spaced,
    from_windows,
    load_vitdet,
    pretraining_normalisation,
    to_windows,
)
from steps.models.backbones import load_backbone, own_resizing
from steps.models.positions import WITH_OFFSET, Resizing, resize_table
from steps.models.tokens import embed
from steps.params.detection import DetectionBackbone
from tests.unit.detection.conftest import seal

PLAIN: dict[str, Any] = {
    "window_size": None,
    "global_blocks": 4,
    "relative_positions": False,
    "drop_path": 0.0,
    "checkpoint_activations": False,
}


def transformer(**arguments: Any) -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**sizes, **arguments})
    assert isinstance(vit, VisionTransformer)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return vit.eval()


def without_class_token(vit: VisionTransformer, **arguments: Any) -> VisionTransformer:
    """timm's model of the same weights that never had a class token or registers."""
    arguments = {name: value for name, value in arguments.items() if name != "reg_tokens"}
    twin = transformer(class_token=False, global_pool="avg", fc_norm=False, **arguments)
    state = {name: tensor for name, tensor in vit.state_dict().items() if "_token" not in name}
    state["pos_embed"] = state["pos_embed"][:, -vit.patch_embed.num_patches :]
    twin.load_state_dict(state)
    return twin


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"init_values": 0.1},
        {"init_values": 0.1, "reg_tokens": 2, "no_embed_class": True},
        {"qk_norm": True},
        {"pre_norm": True},
    ],
    ids=["plain", "layer scale", "registers", "query-key norm", "pre-norm"],
)
def test_global_attention_gives_the_patch_features_of_timm(arguments: dict[str, Any]) -> None:
    vit = transformer(**arguments)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (expected,) = without_class_token(vit, **arguments).forward_intermediates(
            images, indices=1, norm=False, intermediates_only=True
        )
        (features,) = ViTDet(vit, window_size=None, global_blocks=3)(images)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"init_values": 0.1, "pre_norm": True}])
def test_maps_of_several_blocks_are_timm_s_features_of_these(arguments: dict[str, Any]) -> None:
    vit = transformer(depth=6, **arguments)
    images, blocks = torch.randn(2, 3, 64, 64), [0, 2, 3, 5]
    with torch.no_grad():
        expected = without_class_token(vit, depth=6, **arguments).forward_intermediates(
            images, indices=blocks, norm=False, intermediates_only=True
        )
        maps = ViTDet(vit, window_size=None, global_blocks=6, outputs=blocks)(images)
    assert len(maps) == 4
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_frozen_backbone_gives_timm_s_normalised_features_and_trains_nothing() -> None:
    vit = transformer()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (expected,) = without_class_token(vit).forward_intermediates(
            images, indices=1, norm=True, intermediates_only=True
        )
    vitdet = ViTDet(vit, window_size=None, global_blocks=3, frozen=True)
    (features,) = vitdet(images)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert not features.requires_grad
    assert not any(parameter.requires_grad for parameter in vitdet.parameters())
    assert not any(module.training for module in vitdet.train().modules())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"window_size": 4}, "window_size: 4, and frozen: true needs null"),
        ({"relative_positions": True}, "relative_positions: True, and frozen: true needs false"),
        ({"drop_path": 0.1}, "drop_path: 0.1, and frozen: true needs 0"),
        ({"checkpoint_activations": True}, "checkpoint_activations: True, and frozen: true needs"),
    ],
)
def test_a_frozen_backbone_is_not_adapted(change: dict[str, Any], said: str) -> None:
    DetectionBackbone(**PLAIN, frozen=True)
    with pytest.raises(ValidationError, match=said):
        DetectionBackbone(**{**PLAIN, **change}, frozen=True)


def test_blocks_above_the_last_map_are_left_out(backbone: Path) -> None:
    vitdet = load_vitdet(backbone, image_size=64, outputs=[0, 2], **PLAIN)
    assert (len(vitdet.blocks), vitdet.depth) == (3, 4)
    assert load_vitdet(backbone, image_size=64, maps=2, **PLAIN).outputs == (1, 3)
    with pytest.raises(UserError, match=r"maps of blocks \[1, 4\].* has blocks 0 to 3"):
        load_vitdet(backbone, image_size=64, outputs=[1, 4], **PLAIN)


RESIZINGS = [WITH_OFFSET, Resizing(offset=0.0), Resizing(offset=0.0, antialias=True)]


@pytest.mark.parametrize("resizing", RESIZINGS, ids=["offset", "sizes", "antialias"])
@pytest.mark.parametrize("side", [40, 96])
def test_positions_are_resized_as_the_backbone_itself_resizes_them(
    resizing: Resizing, side: int
) -> None:
    vit = transformer()
    vit.resizing = resizing
    vitdet = ViTDet(vit, window_size=None, global_blocks=3)
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        expected = embed(vit, images)[:, 1:]
        found = vitdet.embed(images).flatten(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_positions_of_oblong_images_are_resized_axis_by_axis(backbone: Path) -> None:
    artifact = load_backbone(backbone)
    vitdet = load_vitdet(backbone, image_size=96, **PLAIN)
    assert vitdet.resizing == own_resizing(artifact) == WITH_OFFSET
    with torch.no_grad():
        bare = vitdet.patch_norm(vitdet.proj(torch.zeros(1, 3, 96, 80)).permute(0, 2, 3, 1))
        added = vitdet.embed(torch.zeros(1, 3, 96, 80)) - bare
        expected = resize_table(artifact.pos_embed, (12, 10))[:, 1:].unflatten(1, (12, 10))
    torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-6)


def test_an_artifact_s_own_resizing_reaches_the_detector(backbone: Path, tmp_path: Path) -> None:
    copy = tmp_path / "backbone"
    shutil.copytree(backbone, copy)
    config = json.loads((copy / "config.json").read_text())
    config["resizing"] = {"offset": 0.0, "antialias": True}
    (copy / "config.json").write_text(json.dumps(config))
    seal(copy)
    assert load_vitdet(copy, image_size=64, **PLAIN).resizing == Resizing(0.0, True)


def test_a_window_of_the_whole_map_is_global_attention() -> None:
    vit = transformer()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (whole,) = ViTDet(vit, window_size=8, global_blocks=0)(images)
        (everywhere,) = ViTDet(vit, window_size=None, global_blocks=0)(images)
    torch.testing.assert_close(whole, everywhere)


def test_windows_keep_what_happens_in_one_window_there() -> None:
    vitdet = ViTDet(transformer(), window_size=4, global_blocks=0)
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[:, :, :32, :32] += 1
    with torch.no_grad():
        difference = (vitdet(images)[0] - vitdet(changed)[0]).abs().amax(dim=(0, 1))
    assert bool((difference[:4, :4] > 0).all())
    assert float(difference[4:].max()) == 0
    assert float(difference[:, 4:].max()) == 0


def test_windows_and_back() -> None:
    x_BHWD = torch.randn(2, 7, 10, 3)
    windows = to_windows(x_BHWD, 4)
    assert windows.shape == (2 * 2 * 3, 4, 4, 3)
    assert torch.equal(windows[0], x_BHWD[0, :4, :4])
    assert torch.equal(from_windows(windows, 4, 7, 10), x_BHWD)


def test_relative_positions_start_at_zero_and_count() -> None:
    vit = transformer()
    images = torch.randn(1, 3, 48, 64)
    relative = ViTDet(vit, window_size=3, global_blocks=1, relative_grid=8).eval()
    with torch.no_grad():
        (plain,) = ViTDet(vit, window_size=3, global_blocks=1)(images)
        (zero,) = relative(images)
        torch.testing.assert_close(zero, plain, rtol=1e-4, atol=1e-5)
        torch.nn.init.ones_(relative.relative[2].rows)
        torch.nn.init.normal_(relative.relative[2].columns)
        (other,) = relative(images)
    assert float((other - plain).abs().max()) > 1e-3


def test_checkpointed_activations_give_the_same_gradient(backbone: Path) -> None:
    gradients = []
    for checkpointed in (False, True):
        options = {**PLAIN, "checkpoint_activations": checkpointed}
        vitdet = load_vitdet(backbone, image_size=64, **options).train()
        vitdet(torch.ones(1, 3, 64, 64))[0].sum().backward()
        gradients.append(vitdet.proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_global_blocks_of_the_published_models() -> None:
    # Reference: the ViTDet configurations of ViT-B, ViT-L and ViT-H.
    assert evenly_spaced(4, 12) == (2, 5, 8, 11)
    assert evenly_spaced(4, 24) == (5, 11, 17, 23)
    assert evenly_spaced(4, 32) == (7, 15, 23, 31)
    assert evenly_spaced(0, 12) == ()


def test_image_size_that_is_no_multiple_of_the_patch(backbone: Path) -> None:
    with pytest.raises(UserError, match=r"image_size: 60 .* a multiple of 8"):
        load_vitdet(backbone, image_size=60, **PLAIN)


def test_normalisation_is_the_pretraining_s(backbone: Path, tmp_path: Path) -> None:
    assert pretraining_normalisation(backbone) == ([0.5] * 3, [0.25] * 3)
    copy = tmp_path / "backbone"
    shutil.copytree(backbone, copy)
    config = json.loads((copy / "config.json").read_text())
    del config["pretrained_cfg"]["mean"]
    (copy / "config.json").write_text(json.dumps(config))
    seal(copy)
    with pytest.raises(UserError, match="pretrained_cfg: no mean and std"):
        pretraining_normalisation(copy)
