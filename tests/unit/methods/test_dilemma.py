"""DILEMMA by hand: which patches are kept, where they are said to be, what is told apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from steps.command import UserError
from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext, start_from
from steps.methods.dilemma import DILEMMA
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.methods.dilemma import DILEMMAParams
from tests.scenery import BACKBONE

HEADS = {
    "projector": {"hidden_dim": 16, "out_dim": 8},
    "predictor": {"hidden_dim": 16},
}
PROGRESS = Progress(0, 1, 10)


def _method(drop_rate: float = 0.5, **options: Any) -> DILEMMA:
    torch.manual_seed(0)
    params = DILEMMAParams(name="dilemma", drop_rate=drop_rate, **HEADS, **options)
    return DILEMMA(params, create_backbone(Backbone(**BACKBONE)), MethodContext())


def _batch(count: int = 6, size: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(count, 3, size, size, generator=generator) for _ in range(2)]
    return Batch(views, torch.zeros(count))


@pytest.mark.parametrize(("rate", "kept"), [(0.0, 16), (0.3, 11), (0.5, 8), (0.75, 4), (0.9, 1)])
def test_how_many_patches_are_kept(rate: float, kept: int) -> None:
    draws = _method(rate).sample(3, torch.Generator())
    assert draws["order"].shape == (3, 2, 16)
    assert draws["label"].shape == (3, 2, kept)


def test_indices_by_hand() -> None:
    """Patches 3, 1, 2, 0 in the order drawn; two are kept; the second is said to be elsewhere."""
    method = _method(0.5)
    method.patches, method.kept = 4, 2
    order, label = torch.tensor([[0.9, 0.2, 0.5, 0.1]]), torch.tensor([[0.5, 0.1]])
    own, said = method.indices(order, label)
    assert own.tolist() == [[3, 1]]
    assert said.tolist() == [[3, 0]]  # of rank 1 + (4 - 2): the last of the order


def test_indices_where_all_patches_are_kept() -> None:
    """The order reversed: the middle one of three keeps its place, though labelled as wrong."""
    method = _method(0.0)
    method.patches = method.kept = 3
    order, label = torch.tensor([[0.5, 0.9, 0.1]]), torch.zeros(1, 3)
    own, said = method.indices(order, label)
    assert own.tolist() == [[2, 0, 1]]
    assert said.tolist() == [[1, 0, 2]]


def test_the_student_computes_no_dropped_patch() -> None:
    """What is not a number in every dropped patch goes nowhere."""
    method, batch = _method(0.75), _batch(2)
    draws = method.sample(2, torch.Generator().manual_seed(0))
    own, said = method.indices(draws["order"][:, 0], draws["label"][:, 0])
    expected = method.student(batch.views[0], own, said)
    spoilt = torch.full_like(batch.views[0], float("nan"))
    for image in range(2):
        for patch in own[image].tolist():
            top, left = 8 * (patch // 4), 8 * (patch % 4)
            place = (image, slice(None), slice(top, top + 8), slice(left, left + 8))
            spoilt[place] = batch.views[0][place]
    for ours, theirs in zip(method.student(spoilt, own, said), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert expected[1].shape == (2, 4, 24)


def test_a_student_that_sees_all_in_place_is_the_plain_encoder() -> None:
    method, batch = _method(0.0), _batch(2)
    every = torch.arange(16).expand(2, -1)
    vit = method.pair.encoder.backbone.eval()
    feature, tokens = method.student(batch.views[0], every, every)
    theirs = vit.forward_features(batch.views[0])
    assert torch.allclose(feature, theirs[:, 0], atol=1e-5)
    assert torch.allclose(tokens, theirs[:, 1:], atol=1e-5)


def test_the_losses_are_what_the_docstring_says() -> None:
    method, batch = _method(0.5, misplaced=0.3, detection_weight=0.7), _batch()
    draws = method.sample(6, torch.Generator().manual_seed(0))
    encoded = method.encode(batch, draws, PROGRESS)
    losses = method.losses(encoded, draws, PROGRESS)
    for view in (1, 2):
        wrong = (draws["label"][:, view - 1] < 0.3).float()
        expected = F.binary_cross_entropy(encoded[f"d{view}"].sigmoid(), wrong)
        assert losses[f"detection{view}"].item() == pytest.approx(expected.item(), rel=1e-4)
    mean = (losses["detection1"] + losses["detection2"]) / 2
    assert losses["loss"].item() == pytest.approx((losses["contrastive"] + 0.7 * mean).item())


def test_the_class_token_never_gets_a_position() -> None:
    """Neither by gradient nor by decay: the exported table has a row of zeros."""
    method = _method()
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.1, weight_decay=0.1)
    for step in range(3):
        draws = method.sample(6, torch.Generator().manual_seed(step))
        method(_batch(), draws, PROGRESS)["loss"].backward()
        optimizer.step()
        method.before_step(PROGRESS)
    for encoder in (method.pair.encoder, method.pair.momentum_encoder):
        assert not encoder.backbone.pos_embed[:, 0].any()
        assert encoder.backbone.pos_embed[:, 1:].all()
    assert method.export_backbone() is method.pair.encoder.backbone


def test_without_misplaced_tokens_there_is_nothing_to_detect() -> None:
    method = _method(0.5, misplaced=0.0)
    draws = method.sample(6, torch.Generator())
    assert method(_batch(), draws, PROGRESS).keys() == {"loss"}
    assert not any("detector" in name for name, _ in method.named_parameters())


def test_views_of_another_size_are_refused() -> None:
    method = _method()
    with pytest.raises(UserError, match=r"training\.views: 16 px"):
        method.encode(_batch(2, size=16), method.sample(2, torch.Generator()), PROGRESS)


def test_a_rate_that_drops_every_patch_is_refused() -> None:
    with pytest.raises(UserError, match=r"method\.drop_rate"):
        _method(0.99)


def test_weights_to_start_from_give_both_networks_the_class_token_s_position() -> None:
    """The student passes over the table's row of the class token, and teacher and export do not."""
    method, batch = _method(0.0), _batch(2)
    torch.manual_seed(5)
    pretrained = create_backbone(Backbone(**BACKBONE)).eval()
    with torch.no_grad():
        pretrained.pos_embed += torch.randn(1, 17, 24)
    expected = pretrained(batch.views[0])
    start_from(method, method.pair.encoder.backbone, pretrained.state_dict())
    every = torch.arange(16).expand(2, -1)
    student, _ = method.eval().student(batch.views[0], every, every)
    keys = method.pair.momentum_encoder.backbone
    for found in (student, keys(batch.views[0]), method.export_backbone()(batch.views[0])):
        torch.testing.assert_close(found, expected)
    assert not keys.pos_embed[:, 0].any()
