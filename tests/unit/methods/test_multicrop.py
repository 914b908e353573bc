"""Methods with crops of several sizes: packed, they learn what a pass for each size would teach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext, backbone_for, build_method
from steps.models import last_block
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.recipe import Recipe
from tests.scenery import BACKBONE, RECIPES

PROGRESS = Progress(step=5, steps_per_epoch=1, total_steps=10)
BATCH = 4
EXTRA = {"init_values": 0.5, "qk_norm": True, "depth": 3}
CASES: dict[str, tuple[str, list[int], dict[str, Any], dict[str, Any]]] = {
    # Name: recipe, crops, of the method, of the backbone.
    "dino": ("dino", [32, 32, 16, 16, 24], {"drop_path": 0.5}, EXTRA),
    "dino plain": ("dino", [32, 32, 16], {"drop_path": 0.0}, {}),
    "ibot": ("ibot", [32, 32, 16, 16, 24], {"drop_path": 0.5}, EXTRA),
    "ibot registers": ("ibot", [32, 32, 16], {"drop_path": 0.2}, {"reg_tokens": 2}),
    "dinov2": ("dinov2", [32, 32, 16, 16], {"drop_path": 0.4}, {"qk_norm": True, "depth": 3}),
    "dinov2 no mask": ("dinov2", [32, 32, 16], {"masks": {"probability": 0.0}}, {}),
}


def _learnt(case: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and every gradient."""
    name, sides, changed, added = CASES[case]
    recipe = Recipe.model_validate(RECIPES[name])
    content = {**recipe.method.model_dump(), **changed}
    params = type(recipe.method).model_validate(content)
    model = {**BACKBONE["model_args"], **added}
    backbone = backbone_for(params, Backbone(**{**BACKBONE, "model_args": model}))
    torch.manual_seed(0)
    method = build_method(
        params, create_backbone(backbone), MethodContext(len(sides), tuple(sides))
    )
    for parameter in method.parameters():
        # Layer scale, tokens and biases that start near zero would hide a wrong place.
        if parameter.requires_grad and parameter.ndim < 4:
            nn.init.normal_(parameter, std=0.2)
    views = [torch.randn(BATCH, 3, side, side) for side in sides]
    draws = method.sample(BATCH, torch.Generator().manual_seed(1))
    loss = method(Batch(views, torch.zeros(BATCH)), draws, PROGRESS)["loss"]
    loss.backward()
    return loss.detach(), {
        key: parameter.grad
        for key, parameter in method.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_a_pass_for_each_size(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs: list[bool] = []
    can_pack = last_block.can_pack

    def watched(vit: Any) -> bool:
        packs.append(can_pack(vit))
        return packs[-1]

    monkeypatch.setattr(last_block, "can_pack", watched)
    loss, gradients = _learnt(case)
    assert packs == [True]
    monkeypatch.setattr(last_block, "can_pack", lambda vit: False)
    plain_loss, plain_gradients = _learnt(case)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-5, atol=0)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        close = 1e-5 * gradient.abs().max().item() + 1e-7
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=close, msg=name)
