"""A ResNet in a detector: its maps, its frozen batch norms, its layers, a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steps.artifacts import publish
from steps.command import UserError
from steps.detection.backbone import ResNetMaps, load_resnet_maps
from steps.detection.optimizer import parameter_groups
from steps.detection.train import build_detector, train_and_evaluate
from steps.models.backbones import create_backbone, load_backbone, save_backbone
from steps.params.backbone import Backbone
from steps.params.detection import Detection

RESNET: dict[str, Any] = {
    "scale": "ResNet-tiny",
    "architecture": "resnet18",
    "image_size": 64,
    "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
}


def _publish(folder: Path, **changes: Any) -> Path:
    params = Backbone(**{**RESNET, **changes})
    torch.manual_seed(0)
    with publish(folder, node="pretrain", params={}, inputs={}, seed=0) as draft:
        save_backbone(create_backbone(params), params, draft.path, mean=[0.5] * 3, std=[0.25] * 3)
        draft.facts.update(recipe="random", backbone="resnet_tiny")
    return folder


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ResNet of four narrow stages."""
    return _publish(tmp_path_factory.mktemp("resnet") / "backbone")


def _maps(artifact: Path, strides: list[int]) -> ResNetMaps:
    return load_resnet_maps(artifact, strides, drop_path=0.0, checkpoint_activations=False)


def test_maps_are_those_of_the_stages(resnet: Path) -> None:
    images = torch.randn(2, 3, 64, 96)
    maps = _maps(resnet, [4, 8, 16, 32, 64])(images)
    assert [tuple(map_.shape[1:]) for map_ in maps] == [
        (8, 16, 24), (16, 8, 12), (24, 4, 6), (32, 2, 3)
    ]  # fmt: skip
    assert torch.equal(maps[-1], load_backbone(resnet).forward_features(images))
    assert _maps(resnet, [8, 16]).channels == [16, 24]


def test_small_stems_have_finer_maps(tmp_path: Path) -> None:
    small = _publish(tmp_path / "small", architecture="resnet18_small_stem", image_size=32)
    assert _maps(small, [4, 8, 16]).channels == [24, 32]
    with pytest.raises(UserError, match=r"pyramid.strides: the finest is 16.*1, 2, 4, 8"):
        _maps(small, [16, 32])


def test_batch_norms_stay_as_pretrained(resnet: Path) -> None:
    maps = _maps(resnet, [4, 8])
    norms = [module for module in maps.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    before = {name: buffer.clone() for name, buffer in maps.named_buffers()}
    maps.train()(torch.randn(2, 3, 64, 64))
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    for name, buffer in maps.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_recomputed_activations_change_nothing(resnet: Path) -> None:
    images = torch.randn(2, 3, 64, 64)
    kept = _maps(resnet, [4, 8]).train()
    again = load_resnet_maps(resnet, [4, 8], drop_path=0.0, checkpoint_activations=True).train()
    for maps in (kept, again):
        sum(map_.square().sum() for map_ in maps(images)).backward()
    for (name, ours), theirs in zip(again.named_parameters(), kept.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            assert torch.equal(ours.grad, theirs.grad), name


def test_layers_are_stages(resnet: Path, small: Callable[..., Detection]) -> None:
    model = build_detector(small(), backbone=resnet, classes=2, seed=0)
    assert isinstance(model.backbone, ResNetMaps)
    names = {parameter: name for name, parameter in model.named_parameters()}
    layers: dict[float, set[str]] = {}
    for group in parameter_groups(model, model.backbone.depth, 1.0, 0.05, 0.5):
        parts = {names[p].removeprefix("backbone.").partition(".conv")[0] for p in group["params"]}
        layers.setdefault(group["lr_scale"], set()).update(parts)
    assert layers[0.5**5] == {"stem.0.weight"}
    assert {part[:8] for part in layers[0.5**4]} == {"layers.0"}
    assert {part[:8] for part in layers[0.5]} == {"layers.3"}
    assert not any(part.startswith("layers") for part in layers[1.0])


def test_a_whole_run(
    resnet: Path, scenes: Path, small: Callable[..., Detection], tmp_path: Path
) -> None:
    outcome = train_and_evaluate(
        small(epochs=1), backbone=resnet, data=scenes, seed=0, scratch=tmp_path
    )
    assert {"box_AP", "mask_AP"} <= outcome.metrics.keys()
    assert all(0 <= value <= 100 for value in outcome.metrics.values())
    assert torch.isfinite(outcome.model.neck.fpn_convs[0].conv.weight).all()


def test_a_frozen_one_trains_nothing(resnet: Path) -> None:
    maps = load_resnet_maps(
        resnet, [4, 8], drop_path=0.0, checkpoint_activations=False, frozen=True
    ).train()
    assert not any(parameter.requires_grad for parameter in maps.parameters())
    assert not any(module.training for module in maps.modules())
