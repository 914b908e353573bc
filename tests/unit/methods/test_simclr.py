"""NT-Xent against its equation, and what becomes of the projector."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext, build_method
from steps.methods.simclr import SimCLR, nt_xent
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.methods.simclr import Projector, SimCLRParams
from tests.scenery import BACKBONE

PROGRESS = Progress(step=0, steps_per_epoch=1, total_steps=1)


def _method(**params: object) -> SimCLR:
    torch.manual_seed(0)
    method = build_method(
        SimCLRParams(name="simclr", **params),
        create_backbone(Backbone(**BACKBONE)),
        MethodContext(views=2),
    )
    assert isinstance(method, SimCLR)
    return method


def test_loss_is_equation_1_summed_over_both_directions() -> None:
    torch.manual_seed(1)
    images, temperature = 5, 0.3
    z = nn.functional.normalize(torch.randn(2 * images, 7), dim=1)
    loss, _ = nt_xent(z[:images], z[images:], temperature)
    total = 0.0
    for i in range(2 * images):
        partner = (i + images) % (2 * images)
        scores = {j: math.exp(float(z[i] @ z[j]) / temperature) for j in range(2 * images)}
        total -= math.log(scores[partner] / sum(scores[j] for j in scores if j != i))
    assert loss.item() == pytest.approx(total / images, rel=1e-5)


def test_equal_views_that_are_far_from_the_others_cost_little() -> None:
    z = torch.eye(4)
    loss, logits = nt_xent(z, z, 0.1)
    assert loss.item() == pytest.approx(2 * math.log(1 + 6 * math.exp(-10)), rel=1e-3)
    assert torch.equal(logits, 10 * z)


def test_the_first_version_has_two_layers_and_a_width_of_its_own() -> None:
    method = _method(projector=Projector(layers=2, hidden_dim=40, out_dim=6))
    widths = [layer.weight.shape for layer in method.projector if isinstance(layer, nn.Linear)]
    assert widths == [(40, 24), (6, 40)]


def test_without_normalisation_lengths_count() -> None:
    views = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    batch = Batch(views, torch.zeros(4, dtype=torch.int64))
    cosine, dot = _method(), _method(normalise=False)
    for method in (cosine, dot):
        last = method.projector[-1]
        assert isinstance(last, nn.BatchNorm1d)
        last.weight.data.mul_(3.0)
    losses = [method(batch, {}, PROGRESS)["loss"].item() for method in (cosine, dot)]
    assert abs(losses[0] - losses[1]) > 0.1


def test_the_backbone_and_every_trained_weight_get_a_gradient() -> None:
    method = _method()
    views = [torch.randn(4, 3, 32, 32) for _ in range(2)]
    method(Batch(views, torch.zeros(4, dtype=torch.int64)), {}, PROGRESS)["loss"].backward()
    without = {name for name, p in method.named_parameters() if p.grad is None}
    last = len(method.projector) - 1
    assert without == {f"projector.{last}.bias"}, "the last batch norm has no shift"
    assert method.export_backbone() is method.backbone
