"""ResNets as backbones: the small stem, features, drop path, artifacts that timm loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.models.resnet import ResNet
from torch import nn

from steps.artifacts import publish
from steps.command import UserError
from steps.engine.optimizers import layer_of
from steps.models import drop_path
from steps.models.backbones import (
    create_backbone,
    depth,
    image_size,
    load_backbone,
    normalisation,
    save_backbone,
)
from steps.models.batch_norm import BatchNorm2d
from steps.models.features import frozen_features, global_feature, mean_feature
from steps.params.backbone import Backbone
from steps.params.load import load
from tests.processes import REPOSITORY
from tests.scenery import RESNET, Scenery


def _resnet(**changes: object) -> ResNet:
    torch.manual_seed(0)
    model = create_backbone(Backbone(**{**RESNET, **changes}))
    assert isinstance(model, ResNet)
    # timm's residual branches end with a scale of zero: they would all be silent.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def test_the_small_stem_keeps_every_pixel_for_the_first_stage() -> None:
    model = _resnet()
    seen: list[tuple[int, ...]] = []
    model.layer1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert global_feature(model.eval(), torch.randn(2, 3, 32, 32)).shape == (2, 32)
    assert seen == [(2, 64, 32, 32)]
    assert [info["reduction"] for info in model.feature_info] == [1, 1, 2, 4, 8]


def test_the_published_shapes() -> None:
    folder = REPOSITORY / "params/backbones"
    small = create_backbone(load(folder / "resnet18_cifar.yaml", Backbone))
    assert small.conv1.weight.shape == (64, 3, 3, 3)
    assert small.conv1.stride == (1, 1)
    assert isinstance(small.maxpool, nn.Identity)
    # torchvision's ResNet-18 without its classifier, with 64 * 3 * (7 * 7 - 3 * 3) weights less.
    assert sum(p.numel() for p in small.parameters()) == 11_176_512 - 64 * 3 * 40
    with torch.device("meta"):
        large = create_backbone(load(folder / "resnet50.yaml", Backbone))
    assert sum(p.numel() for p in large.parameters()) == 23_508_032
    assert (image_size(small), image_size(large)) == (32, 224)


def test_every_pooling_is_the_global_average() -> None:
    model = _resnet().eval()
    images = torch.randn(3, 3, 32, 32)
    average = model.forward_features(images).mean(dim=(2, 3))
    frozen = frozen_features(model, images, ["cls", "mean"])
    for feature in (*frozen.values(), global_feature(model, images), mean_feature(model, images)):
        assert torch.equal(feature, average)


def test_drop_path_drops_the_branch_of_the_samples_it_says() -> None:
    model = _resnet().eval()
    drop_path.install(model, 0.5)
    keep = drop_path.sample(model, 4, torch.Generator().manual_seed(0))
    assert keep.shape == (4, 4), "one branch a block"
    assert keep[:, 0].all(), "the first block's rate is zero"
    images = torch.randn(1, 3, 32, 32).expand(4, -1, -1, -1)
    keep = torch.ones(4, 4, dtype=torch.bool)
    keep[1, 3] = False
    kept, dropped, *_ = global_feature(model, images, keep)
    assert not torch.allclose(kept, dropped)
    whole = global_feature(model, images)
    assert not torch.allclose(whole[0], kept), "what is kept is scaled by 1 / (1 - rate)"


def test_an_artifact_is_a_timm_model_and_loads_with_our_batch_norm(tmp_path: Path) -> None:
    params = Backbone(**RESNET)
    model = _resnet().eval()
    out = tmp_path / "backbone"
    with publish(out, node="pretrain", params={}, inputs={}) as draft:
        save_backbone(model, params, draft.path, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    images = torch.randn(2, 3, 32, 32)
    plain = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    loaded = load_backbone(out)
    assert torch.equal(plain(images), global_feature(model, images))
    assert torch.equal(global_feature(loaded, images), global_feature(model, images))
    assert isinstance(loaded.layer1[0].bn1, BatchNorm2d)
    assert type(plain.layer1[0].bn1) is nn.BatchNorm2d
    assert image_size(loaded) == 32
    assert normalisation(out) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_a_program_that_knows_the_stem_alone_loads_it(tmp_path: Path) -> None:
    out = tmp_path / "backbone"
    with publish(out, node="pretrain", params={}, inputs={}) as draft:
        save_backbone(_resnet(), Backbone(**RESNET), draft.path, mean=[0.5] * 3, std=[0.5] * 3)
    program = (
        "import timm, steps.models.backbones; "
        f"print(timm.create_model('local-dir:{out}', pretrained=True).num_features)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "32"


def test_layers_for_layer_wise_decay_are_the_stages() -> None:
    assert depth(_resnet()) == 4
    names = ("conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer4.0.bn2.weight")
    assert [layer_of(f"backbone.{name}", 4) for name in names] == [0, 0, 1, 4]
    assert layer_of("head.weight", 4) == 5


def test_a_patch_size_is_a_vision_transformers_alone(scenery: Scenery) -> None:
    path = scenery.write("backbones/a.yaml", {**RESNET, "patch_size": 8})
    with pytest.raises(UserError, match="resnet18_small_stem has no patches: remove the key"):
        load(path, Backbone)
    path = scenery.write(
        "backbones/b.yaml", {"scale": "x", "architecture": "vit_tiny_patch16_224", "image_size": 32}
    )
    with pytest.raises(UserError, match="vit_tiny_patch16_224 needs this key"):
        load(path, Backbone)


@pytest.mark.parametrize("side", [32, 96, 224])
def test_the_side_of_a_resnet_is_that_of_its_params(side: int, tmp_path: Path) -> None:
    """Images that erasing cuts, and the artifact that tasks read, have it."""
    params = Backbone(**{**RESNET, "image_size": side})
    resnet = create_backbone(params)
    assert image_size(resnet) == side
    save_backbone(resnet, params, tmp_path, mean=[0.5] * 3, std=[0.25] * 3)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, side, side]
