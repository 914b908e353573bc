"""Backbones of transformers folders and of timm: outputs are those of the libraries themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from steps.command import UserError
from steps.models.backbones import load_backbone, norm_eps, save_backbone
from steps.models.features import frozen_features
from steps.models.tokens import embed, encode
from steps.official.pretrained import Pretrained, read_timm, read_transformers
from steps.params.backbone import Backbone
from tests.scenery import BACKBONE

BOUND = 1e-5
"""Largest difference of an output from the library's, relative to the largest output or to 1."""
SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
WITH_MLP = {**SIZES, "intermediate_size": 40}
TEXT = {**WITH_MLP, "vocab_size": 40, "max_position_embeddings": 8}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
BEIT = {**WITH_MLP, "layer_scale_init_value": 0.1}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTModel", "ViTConfig", WITH_MLP),
    "vit_without_bias": ("ViTModel", "ViTConfig", {**WITH_MLP, "qkv_bias": False}),
    "vit_classifier": ("ViTForImageClassification", "ViTConfig", WITH_MLP),
    "vit_mae": ("ViTMAEForPreTraining", "ViTMAEConfig", WITH_MLP),
    "dinov2": ("Dinov2Model", "Dinov2Config", SIZES),
    "dinov2_gated": ("Dinov2Model", "Dinov2Config", {**SIZES, "use_swiglu_ffn": True}),
    "registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {**SIZES, "num_register_tokens": 3},
    ),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", {**WITH_MLP, "num_register_tokens": 3}),
    "dinov3_gated": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {
            **WITH_MLP,
            "num_register_tokens": 2,
            "use_gated_mlp": True,
            "hidden_act": "silu",
            "query_bias": False,
            "value_bias": False,
            "rope_theta": 50.0,
        },
    ),
    "beit": ("BeitModel", "BeitConfig", {**BEIT, "use_relative_position_bias": True}),
    "beit_shared": (
        "BeitModel",
        "BeitConfig",
        {
            **BEIT,
            "use_shared_relative_position_bias": True,
            "use_mean_pooling": False,
            "use_absolute_position_embeddings": True,
        },
    ),
    "clip": ("CLIPModel", "CLIPConfig", {"vision_config": WITH_MLP, "text_config": TEXT}),
    "clip_tower": ("CLIPVisionModel", "CLIPVisionConfig", {**WITH_MLP, "hidden_act": "gelu"}),
    "clip_projected": (
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        {**WITH_MLP, "projection_dim": 8},
    ),
    "siglip": ("SiglipModel", "SiglipConfig", {"vision_config": WITH_MLP, "text_config": TEXT}),
    "siglip_tower": ("SiglipVisionModel", "SiglipVisionConfig", WITH_MLP),
    "siglip_headless": (
        "SiglipVisionModel",
        "SiglipVisionConfig",
        {**WITH_MLP, "vision_use_head": False},
    ),
}
"""Class of the model, class of its config, and the config."""


def library() -> Any:
    return pytest.importorskip("transformers")


def spread(model: nn.Module) -> None:
    """Random weights that are large enough for every part of a network to show in its outputs."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def hub_folder(name: str, path: Path) -> Any:
    """A transformers folder of random weights, and its model."""
    transformers = library()
    model_class, config_class, values = MODELS[name]
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**values)).eval()
    spread(model)
    model.save_pretrained(path)
    processor = {"image_mean": MEAN, "image_std": STD}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def outputs(model: Any, images: Tensor) -> dict[str, Tensor]:
    """Tokens after the final norm, and the image's feature where a model has one, in its words."""
    for part in ("vit", "vision_model"):
        model = getattr(model, part, model)
    more = {}
    if type(model).__name__ == "ViTMAEModel":
        # Patches are shuffled by this noise, and the first ones are kept.
        model.config.mask_ratio = 0.0
        more["noise"] = torch.linspace(0, 1, 16).expand(len(images), -1)
    found = model(pixel_values=images, **more)
    tokens = found.last_hidden_state
    if type(model).__name__ == "CLIPVisionModel":
        tokens = model.post_layernorm(tokens)
    result = {"tokens": tokens}
    pooled = getattr(found, "pooler_output", None)
    if pooled is not None and type(model).__name__ != "ViTModel":
        result["pooled"] = pooled
    return result


@torch.inference_mode()
def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def read(path: Path, named: Backbone | None = None, size: int | None = None) -> Pretrained:
    return read_transformers(path, named, size, "backbones/vit.yaml")


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = hub_folder(name, tmp_path / "hub")
    found = read(tmp_path / "hub")
    model = found.imported.model
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = outputs(theirs, images)
        tokens = model.norm(encode(model, embed(model, images)))
        features = frozen_features(model, images, ("cls", "mean"))
    assert difference(tokens, expected["tokens"]) <= BOUND
    if "pooled" in expected:
        # A BEiT pools the mean where its last norm is over that; the others the image's feature.
        mean = name == "beit"
        assert difference(features["mean" if mean else "cls"], expected["pooled"]) <= BOUND
    assert found.normalise is not None
    assert (found.normalise.mean, found.normalise.std) == (MEAN, STD)
    dropped = {
        "vit": ["pooler.dense.bias", "pooler.dense.weight"],
        "vit_without_bias": ["pooler.dense.bias", "pooler.dense.weight"],
        "vit_classifier": ["classifier.bias", "classifier.weight"],
        "clip_projected": ["visual_projection.weight"],
        "beit_shared": [],
    }
    if name in dropped:
        assert found.imported.left_out == dropped[name]
    if name in ("clip", "siglip"):
        assert any(each.startswith("text_model (") for each in found.imported.left_out)
    if name.startswith("dino"):
        assert found.imported.left_out == ["embeddings.mask_token"]


@pytest.mark.parametrize("name", ["vit", "registers", "dinov3", "siglip_tower"])
def test_an_artifact_gives_the_same_outputs_and_another_size_too(name: str, tmp_path: Path) -> None:
    from steps.artifacts import publish

    theirs = hub_folder(name, tmp_path / "hub")
    found = read(tmp_path / "hub", size=48)
    backbone = found.imported.backbone
    assert backbone.image_size == 48
    with publish(tmp_path / "out", node="pretrain", params={}, inputs={}, seed=0) as draft:
        save_backbone(found.imported.model, backbone, draft.path, mean=MEAN, std=STD)
    model = load_backbone(tmp_path / "out")
    assert norm_eps(model) == theirs.config.layer_norm_eps
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    more = {"interpolate_pos_encoding": True} if name in ("vit", "siglip_tower") else {}
    with torch.inference_mode():
        expected = theirs(pixel_values=images, **more).last_hidden_state
        tokens = model.norm(encode(model, embed(model, images)))
    assert difference(tokens, expected) <= BOUND


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("layernorm.bias"), "1 tensors do not fit the backbone: no n"),
        (
            lambda tensors: tensors.update({"encoder.surprise": torch.zeros(1)}),
            "1 tensors do not fit the backbone: unknown encoder.surprise",
        ),
    ],
)
def test_a_folder_with_tensors_missing_or_left_over(
    change: Callable[[dict[str, Tensor]], object], said: str, tmp_path: Path
) -> None:
    hub_folder("vit", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    message = refusal(lambda: read(tmp_path))
    assert message.startswith(f"transformers {tmp_path}: ")
    assert said in message


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    assert "no such folder | allowed: a folder whose config.json" in refusal(
        lambda: read(tmp_path / "no")
    )
    (tmp_path / "config.json").write_text('{"model_type": "swin"}')
    assert "model_type swin | allowed: vit, vit_mae" in refusal(lambda: read(tmp_path))
    config = {"model_type": "beit", "hidden_act": "relu", **WITH_MLP}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "hidden_act relu | allowed: gelu" in refusal(lambda: read(tmp_path))
    for changes, said in (
        ({"hidden_size": "24"}, "hidden_size '24' | allowed: a whole number of 1 or more"),
        ({"image_size": [32, 64]}, "image_size [32, 64] | allowed: the side of a square"),
        ({"image_size": 4}, "image_size 4 below patch_size 8"),
        ({"num_attention_heads": 5}, "timm cannot build it"),
    ):
        values = {"model_type": "vit", "hidden_act": "gelu", **WITH_MLP, **changes}
        (tmp_path / "config.json").write_text(json.dumps(values))
        assert said in refusal(lambda: read(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert "config.json: no hidden_size" in refusal(lambda: read(tmp_path))


def test_a_folder_of_another_size_than_the_backbone_that_is_named(tmp_path: Path) -> None:
    hub_folder("vit", tmp_path)
    named = Backbone(**{**BACKBONE, "patch_size": 4})
    message = refusal(lambda: read(tmp_path, named))
    assert "a backbone of 24 channels, 2 layers, 2 heads, 8 px a patch | allowed: 24 ch" in message
    assert "4 px a patch, as backbones/vit.yaml says" in message


# --- timm

EVAS: dict[str, dict[str, Any]] = {
    "vit_small_patch16_dinov3": {},
    "eva02_tiny_patch14_224": {},
    "vit_small_patch16_rope_mixed_224": {},
}
"""Architectures with rotary positions, and arguments."""


def small(architecture: str, **arguments: Any) -> Backbone:
    """A backbone of the size of seconds."""
    sizes = {**BACKBONE["model_args"], **arguments}
    return Backbone(**{**BACKBONE, "architecture": architecture, "model_args": sizes})


def timm_file(architecture: str, path: Path) -> Any:
    """A file of a small timm model, and the model."""
    sizes = {"img_size": 32, "patch_size": 8, **BACKBONE["model_args"]}
    model = timm.create_model(architecture, num_classes=3, **sizes).eval()
    spread(model)
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, path)
    return model


@pytest.mark.parametrize("name", [*EVAS, "vit_base_patch16_siglip_224"])
def test_tokens_are_those_of_timm(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    theirs = timm_file(name, path)
    found = read_timm(name, path, small(name), None, "backbones/eva.yaml")
    model = found.imported.model
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        tokens = model.norm(encode(model, embed(model, images)))
        assert difference(tokens, theirs.forward_features(images)) <= BOUND
        larger = timm.create_model(
            name, num_classes=3, img_size=48, patch_size=8, **BACKBONE["model_args"]
        )
        theirs.set_input_size((48, 48))
        larger.load_state_dict(theirs.state_dict())
        images = torch.randn(2, 3, 48, 48)
        tokens = model.norm(encode(model, embed(model, images)))
        assert difference(tokens, larger.eval().forward_features(images)) <= BOUND
    assert found.imported.left_out == ["head.bias", "head.weight"]
    assert found.normalise is not None


def test_a_folder_of_timm_says_what_it_is(tmp_path: Path) -> None:
    timm_file("vit_tiny_patch16_224", tmp_path / "model.safetensors")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": 32, "patch_size": 8, **BACKBONE["model_args"]},
        "pretrained_cfg": {"mean": MEAN, "std": STD},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_timm(None, tmp_path, None, None, "")
    assert found.normalise is not None
    assert found.normalise.mean == MEAN
    assert found.imported.backbone.model_args == BACKBONE["model_args"]
    message = refusal(lambda: read_timm("vit_small_patch16_224", tmp_path, None, None, ""))
    assert "architecture vit_tiny_patch16_224 | allowed: vit_small_patch16_224, as --m" in message


def test_what_timm_cannot_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> Any:
        raise OSError("no network\nand more")

    file = tmp_path / "weights.safetensors"
    timm_file("vit_tiny_patch16_224", file)
    with monkeypatch.context() as patch:
        patch.setattr("timm.create_model", offline)
        message = refusal(
            lambda: read_timm("vit_small_patch16_dinov3.lvd1689m", None, None, None, "")
        )
    assert "--model: vit_small_patch16_dinov3.lvd1689m is neither on this machine nor" in message
    assert "remedy: run where a network is, or give a file of its weights: --check" in message
    assert "did you mean" in refusal(
        lambda: read_timm("vit_smal_patch16_224", file, None, None, "")
    )
    message = refusal(lambda: read_timm("vit_small_patch16_224.dinoo", file, None, None, ""))
    assert "did you mean 'vit_small_patch16_224.dino'?" in message
    assert "neither --model nor a checkpoint" in refusal(
        lambda: read_timm(None, None, None, None, "")
    )
    assert "no word on its architecture" in refusal(lambda: read_timm(None, file, None, None, ""))
    (tmp_path / "empty").mkdir()
    assert "no folder of timm: its config.json names no architecture" in refusal(
        lambda: read_timm("vit_small_patch16_224", tmp_path / "empty", None, None, "")
    )
    # A file of the tiny model is not one of the small model.
    message = refusal(lambda: read_timm("vit_small_patch16_224", file, None, None, ""))
    assert "patch size: 8 | allowed: 16, as its own description says" in message
    message = refusal(lambda: read_timm("swin_tiny_patch4_window7_224", file, None, None, ""))
    assert (
        "a SwinTransformer | allowed: a vision transformer, a BEiT, an EVA or a ResNet" in message
    )


def test_a_model_with_parts_that_no_task_runs(tmp_path: Path) -> None:
    name, path = "deit_tiny_distilled_patch16_224", tmp_path / "weights.safetensors"
    timm_file(name, path)
    message = refusal(lambda: read_timm(name, path, small(name), None, ""))
    assert "with parts that tasks here do not run" in message
