"""Parameter groups, LARS and clipping, against their formulas."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from steps.command import UserError
from steps.engine.optimizers import (
    LARS,
    check_undecayed,
    clip_gradients,
    clip_parts,
    layer_of,
    parameter_groups,
    set_rates,
)
from steps.methods.method import Method
from steps.params.recipe import ClipGrad, Optimizer


def test_layers_of_names() -> None:
    assert layer_of("backbone.cls_token", 4) == 0
    assert layer_of("student.backbone.patch_embed.proj.weight", 4) == 0
    assert layer_of("backbone.blocks.3.mlp.fc1.weight", 4) == 4
    assert layer_of("backbone.norm.weight", 4) == 5
    assert layer_of("student.backbone.mask_token", 4) == 0
    assert layer_of("head.weight", 4) == 5


def test_groups_scale_and_decay() -> None:
    module = nn.Module()
    module.backbone = nn.Module()
    module.backbone.pos_embed = nn.Parameter(torch.zeros(1, 4, 2))
    module.backbone.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    module.head = nn.Linear(2, 3)
    params = Optimizer(
        name="adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.5, undecayed=["pos_embed"]
    )
    groups = parameter_groups(module, params, depth=2)
    found = {
        (group["decayed"], group["lr_scale"]): sum(p.numel() for p in group["params"])
        for group in groups
    }
    assert found == {
        (False, 0.125): 8,
        (True, 0.25): 4,
        (False, 0.25): 2,
        (True, 0.5): 4,
        (False, 0.5): 2,
        (True, 1.0): 6,
        (False, 1.0): 3,
    }
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    set_rates(optimizer, 0.8, 0.3)
    assert {(g["lr"], g["weight_decay"]) for g in optimizer.param_groups} == {
        (0.8 * scale, 0.3 if decayed else 0.0) for decayed, scale in found
    }


def test_the_patch_embedding_has_a_scale_of_its_own_and_last_layers_a_group() -> None:
    module = nn.Module()
    module.backbone = nn.Module()
    module.backbone.patch_embed = nn.Linear(2, 2, bias=False)
    module.backbone.blocks = nn.ModuleList([nn.Linear(2, 2, bias=False)])
    module.head = nn.Module()
    module.head.mlp, module.head.last_layer = (
        nn.Linear(2, 2, bias=False),
        nn.Linear(2, 2, bias=False),
    )
    params = Optimizer(
        name="adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.5, patch_embed_scale=0.2
    )
    optimizer = torch.optim.SGD(parameter_groups(module, params, depth=1), lr=1.0)
    set_rates(optimizer, 1.0, 0.0, held=module.head.last_layer.parameters())
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = [rates[id(parameter)] for parameter in module.parameters()]
    assert found == [0.25 * 0.2, 0.5, 1.0, 0.0]


def test_lars_by_hand() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    bias = nn.Parameter(torch.tensor([1.0]))
    groups = [
        {"params": [weight], "weight_decay": 0.1, "lr_scale": 1.0, "decayed": True},
        {"params": [bias], "weight_decay": 0.0, "lr_scale": 1.0, "decayed": False},
    ]
    optimizer = LARS(groups, lr=0.5, momentum=0.9, trust=0.01)
    weight.grad, bias.grad = torch.tensor([[0.0, 1.0]]), torch.tensor([2.0])
    expected = torch.tensor([[3.0, 4.0]])
    update = torch.tensor([[0.3, 1.4]])  # gradient + 0.1 * weight
    moved = expected - 0.5 * 0.01 * 5.0 / update.norm() * update
    optimizer.step()
    torch.testing.assert_close(weight.detach(), moved)
    torch.testing.assert_close(bias.detach(), torch.tensor([0.0]))
    # The rate multiplies the momentum buffer: with no gradient the old one goes on, decayed.
    bias.grad = torch.zeros(1)
    weight.grad = None
    optimizer.step()
    torch.testing.assert_close(bias.detach(), torch.tensor([-0.5 * 0.9 * 2.0]))
    torch.testing.assert_close(weight.detach(), moved)


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_clipping(scope: str) -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.5])
    clip_gradients([a, b], ClipGrad(max_norm=1.0, scope=scope))  # type: ignore[arg-type]
    norm = 5.0 if scope == "tensor" else (25 + 0.25) ** 0.5
    torch.testing.assert_close(a.grad, torch.tensor([3.0, 4.0]) / (norm + 1e-6))
    kept = 0.5 if scope == "tensor" else 0.5 / (norm + 1e-6)
    torch.testing.assert_close(b.grad, torch.tensor([kept]))


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_clipping_leaves_short_gradients_to_the_bit_and_hides_no_nan(scope: str) -> None:
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    a.grad, b.grad = torch.tensor([0.1, 0.7]), torch.tensor([0.3])
    clip_gradients([a, b], ClipGrad(max_norm=1.0, scope=scope))  # type: ignore[arg-type]
    assert torch.equal(a.grad, torch.tensor([0.1, 0.7]))
    assert torch.equal(b.grad, torch.tensor([0.3]))
    a.grad[0] = torch.nan
    clip_gradients([a, b], ClipGrad(max_norm=1.0, scope=scope))  # type: ignore[arg-type]
    assert a.grad.isnan().all()


def test_embeddings_of_every_kind_learn_with_the_patch_embedding() -> None:
    vit = timm.create_model(
        "vit_tiny_patch16_224", depth=2, num_classes=0, reg_tokens=4, pre_norm=True
    )
    module = nn.Module()
    module.backbone = vit
    params = Optimizer(
        name="adamw",
        lr=1.0,
        weight_decay=0.1,
        layer_decay=0.5,
        undecayed=["pos_embed", "cls_token"],
    )
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = {
        names[parameter].removeprefix("backbone."): (group["decayed"], group["lr_scale"])
        for group in parameter_groups(module, params, depth=2)
        for parameter in group["params"]
    }
    lowest = 0.5**3
    assert groups["reg_token"] == groups["cls_token"] == (False, lowest)
    assert groups["norm_pre.weight"] == groups["norm_pre.bias"] == (False, lowest)
    assert groups["patch_embed.proj.weight"] == (True, lowest)
    assert groups["norm.weight"] == (False, 1.0)


def test_names_without_decay_that_no_parameter_has() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", embed_dim=24, depth=1, num_heads=2)
    given = {"name": "adamw", "lr": 0.1, "weight_decay": 0.1}
    # A recipe names tables and class tokens for backbones that lack them, too.
    for names in ([], ["pos_embed", "cls_token"], ["weight"]):
        check_undecayed(vit, Optimizer(**given, undecayed=names), "r.yaml")
    check_undecayed(nn.Linear(2, 2), Optimizer(**given, undecayed=["pos_embed"]), "r.yaml")
    for name in ("mask_tokn", "reg_token", "blocks"):
        with pytest.raises(UserError, match=rf"^r.yaml: training.optimizer.undecayed: {name} is"):
            check_undecayed(vit, Optimizer(**given, undecayed=[name]), "r.yaml")


def test_parameters_of_no_submodule_are_clipped_as_one_part() -> None:
    method = Method()
    method.head, method.token = nn.Linear(2, 3), nn.Parameter(torch.zeros(4))
    for parameter in method.parameters():
        parameter.grad = torch.ones_like(parameter)
    clip_parts(method, ClipGrad(max_norm=0.5, scope="submodule"))
    assert method.token.grad.norm().item() == pytest.approx(0.5, rel=1e-4)
    norms = [parameter.grad.norm() for parameter in method.head.parameters()]
    assert torch.stack(norms).norm().item() == pytest.approx(0.5, rel=1e-4)
    clip_parts(method, ClipGrad(max_norm=0.5, scope="global"))
    norms = [parameter.grad.norm() for parameter in method.parameters()]
    assert torch.stack(norms).norm().item() == pytest.approx(0.5, rel=1e-4)
