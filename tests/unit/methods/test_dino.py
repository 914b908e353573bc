"""DINO's crops, its head's options, and distillation from a fixed teacher."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steps.command import UserError
from steps.core.schedules import Progress
from steps.engine.optimizers import parameter_groups
from steps.methods import Batch, MethodContext, build_method
from steps.methods.dino import DINO
from steps.models.backbones import create_backbone
from steps.models.teacher import Renormalise, Teacher
from steps.params.backbone import Backbone
from steps.params.methods.dino import DINOParams
from steps.params.recipe import Optimizer
from tests.golden.ranks import on_ranks
from tests.scenery import BACKBONE

PROGRESS = Progress(step=5, steps_per_epoch=1, total_steps=10)
HEAD: dict[str, Any] = {"hidden_dim": 16, "bottleneck_dim": 8, "out_dim": 24}
SAME = ([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])


def _method(
    views: int = 3, teacher: Teacher | None = None, width: int = 24, **changed: Any
) -> DINO:
    head = {**HEAD, **changed.pop("head", {})}
    params = DINOParams.model_validate(
        {
            "name": "dino",
            "head": head,
            "teacher_temp": 0.04,
            "warmup_teacher_temp": 0.04,
            "warmup_teacher_temp_epochs": 0,
            "momentum": 0.9,
            **changed,
        }
    )
    torch.manual_seed(0)
    model = {**BACKBONE["model_args"], "embed_dim": width}
    backbone = create_backbone(Backbone(**{**BACKBONE, "model_args": model}))
    method = build_method(params, backbone, MethodContext(views=views, teacher=teacher))
    assert isinstance(method, DINO)
    return method


def _views(sides: list[int], batch: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, side, side, generator=generator) for side in sides]


def _batch(sides: list[int], batch: int = 4) -> Batch:
    return Batch(_views(sides, batch), torch.zeros(batch, dtype=torch.int64))


def _teacher(width: int = 48, out_dim: int = 24) -> Teacher:
    """A backbone of another width, with the head and centre that its training left."""
    trained = _method(width=width, head={"layers": 2, "hidden_dim": 20, "out_dim": out_dim})
    trained.center.value.normal_(generator=torch.Generator().manual_seed(2))
    heads = {name: weight.clone() for name, weight in trained.heads().items()}
    return Teacher(trained.export_backbone(), heads, Renormalise(SAME, SAME))


@pytest.mark.parametrize("sides", [[32, 32], [32, 32, 16], [32, 32, 32, 16, 16, 24]])
def test_the_loss_is_the_mean_over_pairs_of_different_views(sides: list[int]) -> None:
    targets = 3 if sides[2:3] == [32] else 2
    method = _method(views=len(sides), global_views=targets)
    batch = _batch(sides)
    loss = method(batch, {}, PROGRESS)["loss"].item()
    logits = {
        name: [network.head(network.classes([view])[:, 0]) for view in batch.views]
        for name, network in (("student", method.student), ("teacher", method.teacher))
    }
    pairs = [
        -(logits["teacher"][a] / 0.04).softmax(1) * (logits["student"][b] / 0.1).log_softmax(1)
        for a in range(targets)
        for b in range(len(sides))
        if a != b
    ]
    expected = torch.stack(pairs).sum(dim=2).mean().item()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_trained_lengths_of_prototypes_are_decayed_and_frozen_with_them() -> None:
    method = _method(head={"norm_last_layer": False}, freeze_last_layer_epochs=6)
    length = method.student.head.last_layer.weight_g
    groups = parameter_groups(method, Optimizer(name="adamw", lr=1.0, weight_decay=0.1), depth=2)
    (group,) = [group for group in groups if any(p is length for p in group["params"])]
    assert group["weight_decay"] == 0.1
    assert any(parameter is length for parameter in method.without_gradient(PROGRESS))
    assert not _method().student.head.last_layer.weight_g.requires_grad


def test_drop_path_is_drawn_for_the_student_alone() -> None:
    method = _method(drop_path=0.5)
    draws = method.sample(4, torch.Generator().manual_seed(0))
    assert draws["keep"].shape == (4, 3, 4)
    dropped = {"keep": torch.zeros_like(draws["keep"])}
    batch = _batch([32, 32, 16])
    whole = method.encode(batch, {}, PROGRESS)
    less = method.encode(batch, dropped, PROGRESS)
    assert torch.equal(whole["teacher"], less["teacher"])
    assert not torch.allclose(whole["student"], less["student"])


def test_batch_norm_in_the_head_is_that_of_the_global_batch() -> None:
    batch = _batch([32, 32, 16])
    whole = _pass(batch.views)
    parts = on_ranks(_pass, [([v[:2] for v in batch.views],), ([v[2:] for v in batch.views],)])
    assert sum(part["loss"] for part in parts) / 2 == pytest.approx(whole["loss"], rel=1e-5)
    # Batch norm removes what is added to every row: these gradients are zero but for rounding.
    scale = max(gradient.abs().max() for gradient in whole["gradients"].values())
    constants = {f"student.{name}.bias" for name in ("backbone.norm", "head.mlp.0", "head.mlp.3")}
    for name, gradient in whole["gradients"].items():
        mean = (parts[0]["gradients"][name] + parts[1]["gradients"][name]) / 2
        largest = gradient.abs().max()
        if name in constants:
            assert max(mean.abs().max(), largest) < 1e-5 * scale, name
        else:
            # Relative to the tensor's largest value, as the replays compare gradients.
            assert (mean - gradient).abs().max() <= 1e-4 * largest, name
    assert torch.allclose(parts[0]["center"], whole["center"], atol=1e-6)


def _pass(views: list[Tensor]) -> dict[str, Any]:
    method = _method(head={"use_bn": True})
    losses = method(Batch(views, torch.zeros(len(views[0]))), {}, PROGRESS)
    losses["loss"].backward()
    method.center.update()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    loss = losses["loss"].item()
    return {"loss": loss, "gradients": gradients, "center": method.center.value}


def test_collapse_watch_sees_the_students_class_tokens() -> None:
    method, batch = _method(), _batch([32, 32, 16])
    embeddings = method.embeddings(batch)
    assert embeddings.shape == (4, 24)
    assert torch.equal(embeddings, method.student.classes(batch.views[:1])[:, 0])


def test_distillation_learns_from_the_fixed_teacher() -> None:
    teacher = _teacher()
    method, batch = _method(teacher=teacher), _batch([32, 32, 16])
    assert torch.equal(method.center.value, teacher.heads["center"])
    loss = method(batch, {}, PROGRESS)["loss"]

    # The same by hand: the teacher's own head and centre on its own class tokens.
    def head(tokens: Tensor) -> Tensor:
        hidden = nn.functional.gelu(
            tokens @ teacher.heads["head.mlp.0.weight"].T + teacher.heads["head.mlp.0.bias"]
        )
        hidden = hidden @ teacher.heads["head.mlp.2.weight"].T + teacher.heads["head.mlp.2.bias"]
        weight = nn.functional.normalize(teacher.heads["head.last_layer.weight_v"], dim=1)
        return nn.functional.normalize(hidden, dim=1) @ weight.T

    centre = teacher.heads["center"]
    targets = [
        ((head(teacher.tokens(view)[:, 0]) - centre) / 0.04).softmax(1) for view in batch.views[:2]
    ]
    student = [method.student.head(method.student.classes([view])[:, 0]) for view in batch.views]
    pairs = [
        -(targets[a] * (student[b] / 0.1).log_softmax(1)).sum(1).mean()
        for a, b in ((0, 1), (0, 2), (1, 0), (1, 2))
    ]
    assert loss.item() == pytest.approx(torch.stack(pairs).mean().item(), rel=1e-5)


def test_distillation_leaves_the_teacher_alone_and_exports_the_average() -> None:
    teacher = _teacher()
    method, batch = _method(teacher=teacher), _batch([32, 32, 16])
    before = copy.deepcopy(teacher.backbone.state_dict())
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    start = method.teacher.backbone.cls_token.clone()
    for _ in range(2):
        method(batch, {}, PROGRESS)["loss"].backward()
        optimizer.step()
        method.after_step(PROGRESS)
    after = teacher.backbone.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert method.export_backbone() is method.teacher.backbone
    assert not torch.equal(method.export_backbone().cls_token, start)
    # Neither optimised nor in checkpoints.
    assert not any(name.startswith("fixed") for name, _ in method.named_parameters())
    assert not any(name.startswith("fixed") for name in method.state_dict())


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="30 prototypes, and the student's head has 24"):
        _method(teacher=_teacher(out_dim=30))
    headless = Teacher(_teacher().backbone, {}, Renormalise(SAME, SAME))
    with pytest.raises(UserError, match="without a head"):
        _method(teacher=headless)


def test_kl_is_the_loss_above_the_teachers_entropy() -> None:
    method, batch = _method(), _batch([32, 32, 16])
    losses = method(batch, {}, PROGRESS)
    assert losses["kl"].item() == pytest.approx(
        losses["loss"].item() - losses["teacher_entropy"].item(), rel=1e-4
    )
    assert 0 < losses["teacher_entropy"].item() <= math.log(24)


def test_only_batch_norm_in_the_head_couples_samples() -> None:
    assert not _method().is_batch_coupled
    assert _method(head={"use_bn": True}).is_batch_coupled
