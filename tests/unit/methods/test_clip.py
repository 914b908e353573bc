"""CLIP's losses against their equations, its temperature, and what its artifact keeps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext, build_method
from steps.methods.clip import CLIP, image_text_sigmoid, image_text_softmax
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.methods.clip import CLIPParams
from tests.scenery import BACKBONE, RECIPES

PROGRESS = Progress(step=0, steps_per_epoch=1, total_steps=1)


def _method(**changed: Any) -> CLIP:
    torch.manual_seed(0)
    params = CLIPParams(**{**RECIPES["clip"]["method"], **changed})
    context = MethodContext(views=1, num_classes=3, vocabulary=280)
    method = build_method(params, create_backbone(Backbone(**BACKBONE)), context)
    assert isinstance(method, CLIP)
    return method


def _batch(size: int = 6) -> Batch:
    torch.manual_seed(1)
    ids = torch.randint(278, (size, 12))
    ids[:, 0], ids[:, 7], ids[:, 8:] = 278, 279, 0
    return Batch([torch.randn(size, 3, 32, 32)], torch.zeros(size, dtype=torch.int64), ids)


def _pairs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    return F.normalize(torch.randn(5, 7), dim=1), F.normalize(torch.randn(5, 7), dim=1)


def test_softmax_loss_is_figure_3() -> None:
    image, text = _pairs()
    z = [[4.0 * float(u @ v) for v in text] for u in image]
    total = 0.0
    for i in range(5):
        total += math.log(sum(math.exp(z[i][j]) for j in range(5))) - z[i][i]
        total += math.log(sum(math.exp(z[j][i]) for j in range(5))) - z[i][i]
    loss = image_text_softmax(image, text, image, text, torch.tensor(4.0), 0)
    assert loss.item() == pytest.approx(total / 10, rel=1e-5)


def test_sigmoid_loss_is_equation_1_and_adds_up_over_parts() -> None:
    image, text = _pairs()
    scale, bias = torch.tensor(4.0), torch.tensor(-1.5)
    total = 0.0
    for i in range(5):
        for j in range(5):
            sign = 1 if i == j else -1
            logit = 4.0 * float(image[i] @ text[j]) - 1.5
            total += math.log(1 + math.exp(-sign * logit))
    whole = image_text_sigmoid(image, text, scale, bias, 0)
    assert whole.item() == pytest.approx(total / 5, rel=1e-5)
    parts = [image_text_sigmoid(image[i : i + 1], text, scale, bias, i) for i in range(5)]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-5)


def test_a_sample_is_encoded_by_itself() -> None:
    method, batch = _method().eval(), _batch()
    whole = method.encode(batch, {}, PROGRESS)
    torch.testing.assert_close(whole["image"].norm(dim=1), torch.ones(6))
    for part in (slice(0, 2), slice(2, 6)):
        few = Batch([batch.views[0][part]], batch.labels[part], batch.text[part])
        for name, features in method.encode(few, {}, PROGRESS).items():
            torch.testing.assert_close(features, whole[name][part])


def test_temperature_is_clamped_after_the_step() -> None:
    method = _method()
    for before, after in ((7.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)):
        torch.nn.init.constant_(method.logit_scale, before)
        method.after_step(PROGRESS)
        assert method.logit_scale.item() == pytest.approx(after)


def test_sigmoid_has_a_bias_that_is_learnt_and_no_clamp() -> None:
    method = _method(loss={"name": "sigmoid"})
    losses = method(_batch(), {}, PROGRESS)
    losses["loss"].backward()
    assert method.logit_bias is not None
    assert method.logit_bias.grad is not None
    assert losses["temperature"].item() == pytest.approx(0.1)
    torch.nn.init.constant_(method.logit_scale, 7.0)
    method.after_step(PROGRESS)
    assert method.logit_scale.item() == 7.0
    assert _method().logit_bias is None


def test_heads_and_backbone_are_the_whole_method() -> None:
    method = _method()
    backbone = {f"backbone.{name}" for name in method.export_backbone().state_dict()}
    assert backbone | method.heads().keys() == method.state_dict().keys()
    assert "logit_scale" in method.heads()
