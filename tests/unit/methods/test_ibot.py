"""iBOT's masks, heads and start of prediction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from steps.command import UserError
from steps.core.schedules import Progress
from steps.methods import Batch, Draws, MethodContext, build_method
from steps.methods.ibot import IBOT
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.methods.ibot import IBOTParams
from tests.scenery import BACKBONE

SIDES = (32, 32, 16)


def _progress(epoch: int) -> Progress:
    return Progress(step=epoch, steps_per_epoch=1, total_steps=10)


def _method(sides: tuple[int, ...] = SIDES, **changed: Any) -> IBOT:
    head = {"hidden_dim": 16, "bottleneck_dim": 8, "out_dim": 24, "patch_out_dim": 24}
    params = IBOTParams.model_validate(
        {
            "name": "ibot",
            "masks": {"shape": "block", "ratios": [0.5], "variances": [0.0]},
            "head": {**head, **changed.pop("head", {})},
            "teacher_temp": 0.07,
            "warmup_teacher_temp": 0.04,
            "teacher_patch_temp": 0.06,
            "warmup_teacher_patch_temp": 0.05,
            "warmup_teacher_temp_epochs": 2,
            "momentum": 0.9,
            **changed,
        }
    )
    torch.manual_seed(0)
    context = MethodContext(views=len(sides), sides=sides)
    method = build_method(params, create_backbone(Backbone(**BACKBONE)), context)
    assert isinstance(method, IBOT)
    return method


def _batch(sides: tuple[int, ...] = SIDES, batch: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(batch, 3, side, side, generator=generator) for side in sides]
    return Batch(views, torch.zeros(batch, dtype=torch.int64))


def _mask(*counts: int) -> Draws:
    """So many masked patches in the first view of each image, none in the second."""
    mask = torch.zeros(len(counts), 2, 16, dtype=torch.bool)
    for index, count in enumerate(counts):
        mask[index, 0, :count] = True
    return {"mask": mask}


def test_draws_are_masks_of_the_global_views_and_drop_path_of_all() -> None:
    draws = _method(drop_path=0.1).sample(5, torch.Generator().manual_seed(0))
    assert draws["mask"].shape == (5, 2, 16)
    assert draws["keep"].shape == (5, 3, 4)
    small = _method((16, 16)).sample(5, torch.Generator().manual_seed(0))
    assert small["mask"].shape == (5, 2, 4)


def test_patch_loss_is_the_mean_over_images_of_the_mean_over_masked_patches() -> None:
    method, batch, draws = _method(dino_weight=0.0), _batch(), _mask(0, 1, 3, 16)
    loss = method(batch, draws, _progress(5))["loss"].item()
    mask = draws["mask"]
    with torch.no_grad():
        _, seen = method.teacher.tokens(batch.views[:2])
        _, hidden = method.student.tokens(batch.views[:2], mask, method.mask_token)
        targets = (method.teacher.head.patches(seen) / 0.06).softmax(-1)
        answers = (method.student.head.patches(hidden) / 0.1).log_softmax(-1)
    error = -(targets * answers).sum(-1)
    images = [error[i, 0, : mask[i, 0].sum()].mean() for i in (1, 2, 3)]
    # Of 2 views of 4 images all but three have no masked patch, and count as 0.
    assert loss == pytest.approx((sum(images) / 8).item(), rel=1e-5)


def test_without_any_masked_patch_the_patch_loss_is_zero_and_has_a_gradient() -> None:
    losses = _method()(_batch(), _mask(0, 0, 0, 0), _progress(5))
    assert losses["patch"].item() == 0
    losses["loss"].backward()


def test_only_the_student_sees_the_mask() -> None:
    method, batch = _method(), _batch()
    masked = method.encode(batch, _mask(8, 8, 8, 8), _progress(5))
    whole = method.encode(batch, _mask(0, 0, 0, 0), _progress(5))
    assert torch.equal(masked["teacher_patches"], whole["teacher_patches"])
    assert not torch.allclose(masked["student_class"][:, 0], whole["student_class"][:, 0])
    assert torch.equal(masked["student_class"][:, 2], whole["student_class"][:, 2])


def test_prediction_begins_with_its_epoch_and_so_does_its_temperature() -> None:
    masks = {"shape": "block", "ratios": [0.5], "variances": [0.0], "start_epoch": 3}
    method, batch, draws = _method(masks=masks), _batch(), _mask(8, 8, 8, 8)
    assert method(batch, draws, _progress(2))["patch"].item() == 0
    assert method(batch, draws, _progress(3))["patch"].item() > 0
    temperatures = [method.patch_temp(_progress(epoch)) for epoch in range(7)]
    assert temperatures == pytest.approx([0.05, 0.05, 0.05, 0.05, 0.06, 0.06, 0.06])
    assert method.teacher_temp(_progress(0)) == 0.04


def test_patch_centre_is_the_mean_over_all_patches() -> None:
    method, batch = _method(), _batch()
    method(batch, _mask(1, 2, 3, 4), _progress(5))
    method.after_step(_progress(5))
    with torch.no_grad():
        _, patches = _method().teacher.tokens(batch.views[:2])
        mean = _method().teacher.head.patches(patches).flatten(0, 2).mean(0)
    assert torch.allclose(method.patch_center.value.flatten(), 0.1 * mean, atol=1e-6)


def _prototypes(method: IBOT) -> tuple[Tensor, Tensor]:
    head = method.teacher.head
    return head.last_layer.weight_v, head.patch_layer.weight_v


@pytest.mark.parametrize("shared", [True, False])
def test_heads_that_student_and_teacher_share_alike(shared: bool) -> None:
    method = _method(head={"shared": shared, "shared_teacher": shared})
    classes, patches = _prototypes(method)
    assert (classes is patches) == shared
    frozen = list(method.without_gradient(_progress(0)))
    assert len({id(parameter) for parameter in frozen}) == (2 if shared else 4)


def test_a_teacher_with_one_layer_starts_from_patches_and_follows_classes() -> None:
    method = _method(head={"shared": False, "shared_teacher": True})
    student = method.student.head
    classes, patches = _prototypes(method)
    assert classes is patches
    assert torch.equal(patches, student.patch_layer.weight_v)
    start = patches.clone()
    method(_batch(), _mask(1, 1, 1, 1), _progress(0))
    method.after_step(Progress(step=0, steps_per_epoch=1, total_steps=10))
    expected = 0.9 * start + 0.1 * student.last_layer.weight_v
    assert torch.allclose(_prototypes(method)[0], expected, atol=1e-6)


def test_a_teacher_with_two_layers_to_a_student_with_one_keeps_its_patches() -> None:
    method = _method(head={"shared": True, "shared_teacher": False})
    _, start = (tensor.clone() for tensor in _prototypes(method))
    method.student.head.last_layer.weight_v.data.add_(1.0)
    method(_batch(), _mask(1, 1, 1, 1), _progress(0))
    method.after_step(_progress(0))
    classes, patches = _prototypes(method)
    assert torch.equal(patches, start)
    assert not torch.equal(classes, start)


def test_exports_the_teacher_and_the_head_of_class_tokens() -> None:
    method = _method(head={"shared": False, "shared_teacher": False, "patch_out_dim": 20})
    assert method.export_backbone() is method.teacher.backbone
    heads = method.heads()
    assert "center" in heads
    assert len(heads["head.last_layer.weight_v"]) == 24
    assert not any("patch_layer" in name for name in heads)


def test_global_views_of_different_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="global views of"):
        _method((32, 16))


def test_unequal_prototypes_need_separate_layers() -> None:
    with pytest.raises(ValueError, match="patch_out_dim 20 is not out_dim 24"):
        _method(head={"patch_out_dim": 20, "shared": False})
