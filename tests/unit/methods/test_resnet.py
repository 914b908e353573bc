"""Methods that read one vector an image train a ResNet."""

from __future__ import annotations

import pytest
import torch
from timm.models.resnet import ResNet

from steps.params.recipe import Recipe
from tests.scenery import RECIPES, RESNET, TRAINED, Scenery
from tests.unit.engine.one_step import BATCH, method_of, one_step

FEATURES = [
    name for name in TRAINED if Recipe.model_validate(RECIPES[name]).method.reads == "features"
]


def test_which_methods_they_are() -> None:
    assert {"simclr", "supervised", "clip"} <= set(FEATURES)
    assert not {"mae", "dino", "ibot", "beit"} & set(FEATURES)


@pytest.mark.parametrize("name", FEATURES)
def test_a_step_reaches_every_part_of_a_resnet(name: str, scenery: Scenery) -> None:
    method = method_of(name, scenery, RESNET)
    before = {key: buffer.clone() for key, buffer in method.export_backbone().named_buffers()}
    step = one_step(name, method, scenery, BATCH)
    resnet = method.export_backbone()
    assert isinstance(resnet, ResNet)
    names = {parameter: key for key, parameter in method.named_parameters()}
    for key, parameter in resnet.named_parameters():
        assert step.gradients[names[parameter]].isfinite().all(), key
    assert step.gradients[names[resnet.layer4[0].bn2.weight]].abs().max() > 0
    for key, buffer in resnet.named_buffers():
        assert not torch.equal(buffer, before[key]), f"{key}: batch norm did not see the batch"
