"""DINOv2's own decisions: what is masked, what is scored, what is held still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from steps.artifacts import publish
from steps.command import UserError
from steps.core.schedules import Progress
from steps.engine.optimizers import clip_gradients, parameter_groups, set_rates
from steps.methods import Batch, MethodContext
from steps.methods.dinov2 import DINOv2
from steps.models.backbones import create_backbone, image_size, load_backbone, save_backbone
from steps.models.teacher import Renormalise, Teacher
from steps.params.backbone import Backbone
from steps.params.methods.dinov2 import DINOv2Params
from steps.params.recipe import ClipGrad, Optimizer
from tests.scenery import BACKBONE

HEAD = {"hidden_dim": 16, "bottleneck_dim": 8, "out_dim": 12, "norm_last_layer": False}
START = Progress(0, 2, 8)


PARAMS: dict[str, Any] = {
    "name": "dinov2",
    "head": HEAD,
    "centering": "sinkhorn_knopp",
    "warmup_teacher_temp_epochs": 1,
    "momentum": 0.9,
}


def _method(views: int = 4, backbone: dict[str, Any] = BACKBONE, **params: Any) -> DINOv2:
    torch.manual_seed(0)
    vit = create_backbone(Backbone(**backbone))
    sides = [32, 32, *[16] * (views - 2)]
    return DINOv2(DINOv2Params(**{**PARAMS, **params}), vit, MethodContext(sides=tuple(sides)))


def _batch(size: int = 4, local: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    sides = [32, 32, *[16] * local]
    views = [torch.randn(size, 3, side, side, generator=generator) for side in sides]
    return Batch(views, torch.full((size,), -1))


def _draws(method: DINOv2, size: int = 4) -> dict[str, Tensor]:
    return method.sample(size, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("centering", ["sinkhorn_knopp", "centering"])
@pytest.mark.parametrize("patch_head", [None, {**HEAD, "out_dim": 10}])
def test_the_sum_is_the_weighted_terms(centering: str, patch_head: dict[str, Any] | None) -> None:
    weights = {"dino_weight": 0.7, "ibot_weight": 1.3, "koleo_weight": 0.2}
    method = _method(centering=centering, patch_head=patch_head, **weights)
    losses = method(_batch(), _draws(method), START)
    expected = (
        0.7 * (losses["dino_local"] + losses["dino_global"])
        + 0.2 * losses["koleo"]
        + 1.3 * losses["ibot"]
    )
    torch.testing.assert_close(losses["loss"], expected)
    assert losses["teacher_entropy"].item() > 0
    dino = (losses["dino_local"] + losses["dino_global"]).item()
    assert losses["kl"].item() == pytest.approx(dino - losses["teacher_entropy"].item(), abs=1e-5)


def test_terms_without_weight_are_not_computed() -> None:
    method = _method(koleo_weight=0.0, ibot_weight=0.0)
    losses = method(_batch(), _draws(method), START)
    assert losses.keys() == {"loss", "dino_local", "dino_global", "teacher_entropy", "kl"}


def test_without_local_crops() -> None:
    method = _method(views=2)
    losses = method(_batch(local=0), _draws(method), START)
    assert "dino_local" not in losses
    assert torch.isfinite(losses["loss"])


def test_the_student_sees_masks_and_the_teacher_does_not() -> None:
    method = _method()
    batch, draws = _batch(), _draws(method)
    hidden = Batch([view.clone() for view in batch.views], batch.labels)
    masked = draws["mask"][:, 0].unflatten(1, (4, 4))
    assert bool(masked.any())
    pixels = masked.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    hidden.views[0][pixels.unsqueeze(1).expand(-1, 3, -1, -1)] += 1
    one, other = (method.encode(images, draws, START) for images in (batch, hidden))
    assert torch.equal(one["student_class"], other["student_class"])
    assert torch.equal(one["student_patches"], other["student_patches"])
    assert not torch.allclose(one["teacher_class"][:, 0], other["teacher_class"][:, 0])


def test_only_masked_patches_are_scored_and_without_masks_all_are() -> None:
    method = _method()
    encoded = {name: torch.randn(4, 2, 16, 24) for name in ("student_patches", "teacher_patches")}
    mask = torch.zeros(4, 2, 16, dtype=torch.bool)
    mask[0, 0, :3] = True
    first = method.patch_loss(encoded, mask, 0.07)
    encoded["student_patches"][:, :, 3:] += 1
    assert torch.equal(method.patch_loss(encoded, mask, 0.07), first)
    every = method.patch_loss(encoded, torch.ones_like(mask), 0.07)
    assert torch.equal(method.patch_loss(encoded, None, 0.07), every)
    assert not torch.allclose(every, first)
    nothing = method.patch_loss(encoded, torch.zeros_like(mask), 0.07)
    assert nothing.item() == 0


def test_draws_of_a_method_without_masks_and_drop_path_are_none() -> None:
    assert _draws(_method(masks={"probability": 0.0})) == {}


def test_drop_path_draws_for_both_kinds_of_crops() -> None:
    method = _method(drop_path=0.5, drop_path_uniform=False)
    draws = _draws(method, 6)
    assert draws["gates_global"].shape == (6, 2, 4)
    assert draws["gates_local"].shape == (6, 2, 4)
    # The first of two blocks has rate 0, the second drops half of the 12 crops.
    assert torch.equal(draws["gates_local"][..., :2], torch.ones(6, 2, 2))
    assert [(draws["gates_local"][..., b] == 2).sum().item() for b in (2, 3)] == [6, 6]


def test_last_layers_are_held_still_and_their_moments_go_on() -> None:
    method = _method(patch_head=HEAD)
    params = Optimizer(name="adamw", lr=0.1, weight_decay=0.1)
    optimizer = torch.optim.AdamW(parameter_groups(method, params, 2))
    set_rates(optimizer, 0.1, 0.1, method.with_zero_lr(START))
    method(_batch(), _draws(method), START)["loss"].backward()
    last = method.student.dino_head.last_layer.weight_v
    other = method.student.dino_head.mlp[0].weight
    before, moved = last.detach().clone(), other.detach().clone()
    optimizer.step()
    assert torch.equal(last, before)
    assert not torch.equal(other, moved)
    assert optimizer.state[last]["exp_avg"].abs().sum().item() > 0
    assert list(method.with_zero_lr(Progress(2, 2, 8))) == []


def test_each_submodule_is_clipped_by_its_own_norm() -> None:
    method = _method(patch_head=HEAD)
    names = [name for name, _ in method.student.named_children()]
    assert names == ["backbone", "dino_head", "ibot_head"]
    method(_batch(), _draws(method), START)["loss"].backward()
    for part in method.submodules():
        clip_gradients(part.parameters(), ClipGrad(max_norm=1e-3, scope="submodule"))
        norms = [p.grad.norm() for p in part.parameters() if p.grad is not None]
        assert torch.stack(norms).norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_the_export_has_no_mask_token() -> None:
    assert "mask_token" not in _method().export_backbone().state_dict()


def _fixed(method: DINOv2) -> Teacher:
    """What a pretraining leaves behind, as a student gets it."""
    same = ([0.5] * 3, [0.25] * 3)
    heads = {name: weight.clone() for name, weight in method.heads().items()}
    return Teacher(method.export_backbone(), heads, Renormalise(same, same))


def _student(teacher: Teacher, **params: Any) -> DINOv2:
    torch.manual_seed(1)
    values = {**PARAMS, "masks": {"probability": 0.0}, **params}
    vit = create_backbone(Backbone(**BACKBONE))
    return DINOv2(
        DINOv2Params(**values), vit, MethodContext(sides=(32, 32, 16, 16), teacher=teacher)
    )


LARGE = {**BACKBONE, "model_args": {"embed_dim": 48, "depth": 3, "num_heads": 4}}


@pytest.mark.parametrize("patch_head", [None, {**HEAD, "out_dim": 10}])
def test_a_student_is_held_to_the_fixed_teacher(patch_head: dict[str, Any] | None) -> None:
    large = _method(backbone=LARGE, patch_head=patch_head)
    student = _student(_fixed(large), patch_head=patch_head)
    batch = _batch()
    encoded = student.encode(batch, {}, START)
    tokens = large.teacher.tokens(batch.views[:2])
    torch.testing.assert_close(encoded["teacher_class"], tokens[0])
    torch.testing.assert_close(encoded["teacher_patches"], tokens[1])
    source = student.source
    torch.testing.assert_close(source.dino_head(tokens[0]), large.teacher.dino_head(tokens[0]))
    torch.testing.assert_close(source.patch_head(tokens[1]), large.teacher.patch_head(tokens[1]))


def test_the_fixed_teacher_stays_and_the_average_follows_the_student() -> None:
    student = _student(_fixed(_method(backbone=LARGE)))
    assert not any("fixed" in name for name in student.state_dict())
    before = [parameter.clone() for parameter in student.source.parameters()]
    average = student.teacher.backbone.cls_token.clone()
    optimizer = torch.optim.SGD(student.student.parameters(), lr=1.0)
    losses = student(_batch(), _draws(student), START)
    losses["loss"].backward()
    optimizer.step()
    student.after_step(START)
    after = list(student.source.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    moved = 0.9 * average + 0.1 * student.student.backbone.cls_token.detach()
    torch.testing.assert_close(student.teacher.backbone.cls_token, moved)
    assert student.export_backbone().embed_dim == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": {**HEAD, "out_dim": 13}}, "12 prototypes of class tokens, and .* has 13"),
        ({"patch_head": {**HEAD, "out_dim": 9}}, "12 prototypes of patches, and .* has 9"),
    ],
)
def test_a_teacher_with_other_prototypes_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _student(_fixed(_method(backbone=LARGE)), **change)


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    bare = _fixed(_method())
    bare.heads = {}
    with pytest.raises(UserError, match="without heads over prototypes"):
        _student(bare)
    with pytest.raises(UserError, match="patches of 16 px"):
        _student(_fixed(_method(backbone={**BACKBONE, "patch_size": 16})))


def test_crops_of_one_kind_have_one_size() -> None:
    vit = create_backbone(Backbone(**BACKBONE))
    with pytest.raises(UserError, match="global crops of 32 and 24 px"):
        DINOv2(DINOv2Params(**PARAMS), vit, MethodContext(sides=(32, 24)))


def test_masks_fit_global_crops_that_are_smaller_than_the_backbone_s_images() -> None:
    vit = create_backbone(Backbone(**BACKBONE))
    method = DINOv2(DINOv2Params(**PARAMS), vit, MethodContext(sides=(24, 24)))
    draws = _draws(method)
    assert draws["mask"].shape == (4, 2, 9)
    views = [torch.randn(4, 3, 24, 24) for _ in range(2)]
    assert torch.isfinite(method(Batch(views, torch.full((4,), -1)), draws, START)["loss"])


def test_the_final_phase_resizes_positions_once_and_trains_them() -> None:
    method = _method()
    images = torch.randn(2, 3, 48, 48)
    before = method.teacher.tokens([images])
    method.enter_final_phase([48, 48, 24])
    after = method.teacher.tokens([images])
    for ours, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(ours, theirs)
    views = [torch.randn(4, 3, side, side) for side in (48, 48, 24)]
    draws = _draws(method)
    assert draws["mask"].shape == (4, 2, 36)
    method(Batch(views, torch.full((4,), -1)), draws, START)["loss"].backward()
    table = method.student.backbone.pos_embed
    assert table.shape[1] == 1 + 36
    assert table.grad is not None
    assert method.teacher.backbone.pos_embed.requires_grad is False
    export_backbone = method.export_backbone()
    torch.testing.assert_close(export_backbone.forward_features(images)[:, 0], after[0][:, 0])


def test_the_export_after_a_final_phase_is_the_trained_network(tmp_path: Path) -> None:
    method = _method()
    method.enter_final_phase([48, 48, 24])
    trained = method.export_backbone().eval()
    with publish(tmp_path / "out", node="pretrain", params={}, inputs={}) as draft:
        save_backbone(trained, Backbone(**BACKBONE), draft.path, mean=[0.5] * 3, std=[0.5] * 3)
    loaded = load_backbone(tmp_path / "out")
    assert image_size(loaded) == 48
    assert torch.equal(loaded.pos_embed, trained.pos_embed)
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(loaded(images), trained(images))


def test_all_that_trains_gets_a_gradient_without_masks_too() -> None:
    method = _method(masks={"probability": 0.0})
    method(_batch(), _draws(method), START)["loss"].backward()
    assert [
        name for name, p in method.named_parameters() if p.requires_grad and p.grad is None
    ] == []


@pytest.mark.parametrize("key", ["head", "patch_head"])
def test_a_head_of_patches_has_no_batch_norm(key: str) -> None:
    with pytest.raises(ValidationError, match=rf"{key}\.use_bn: a head of patches"):
        DINOv2Params(**{**PARAMS, key: {**HEAD, "use_bn": True}})
    DINOv2Params(**{**PARAMS, "head": {**HEAD, "use_bn": True}, "patch_head": HEAD})
