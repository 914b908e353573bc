"""Where attention lies, against where objects are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steps.evaluation.layout import (
    foreground_colours,
    heaviest,
    jaccard,
    principal_colours,
    share_inside,
    to_pixels,
)
from steps.models.backbones import Transformer, create_backbone
from steps.models.beit import as_beit
from steps.models.features import class_attention
from steps.params.backbone import Backbone, BEiTBackbone
from tests.scenery import BACKBONE


def _vit(kind: str) -> Transformer:
    params = Backbone(**BACKBONE)
    if kind == "beit":
        params = as_beit(params, BEiTBackbone(relative_positions="shared"))
    torch.manual_seed(0)
    vit = create_backbone(params)
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.5)
    return vit.eval()


@pytest.mark.parametrize("kind", ["vit", "beit"])
def test_the_attention_is_what_the_block_weighs_values_by(kind: str) -> None:
    vit = _vit(kind)
    side = BACKBONE["image_size"]
    images = torch.randn(3, 3, side, side)
    before = vit.forward_features(images)
    attention = class_attention(vit, images)
    patches = vit.patch_embed.num_patches
    assert attention.shape == (3, BACKBONE["model_args"]["num_heads"], patches)
    assert torch.equal(vit.forward_features(images), before), "the model is as it was"
    # Weighing values by hand gives the class token's output of the fused kernel.
    block, seen = vit.blocks[-1].attn, {}
    handles = [
        block.proj.register_forward_pre_hook(lambda m, i: seen.update(weighed=i[0])),
        block.register_forward_pre_hook(lambda m, i: seen.update(x=i[0])),
    ]
    vit.forward_features(images)
    for handle in handles:
        handle.remove()
    weight = block.qkv.weight.chunk(3)[2]
    bias = block.qkv.bias.chunk(3)[2] if kind == "vit" else block.v_bias
    values = (seen["x"] @ weight.T + bias).unflatten(2, (attention.shape[1], -1)).transpose(1, 2)
    own = 1 - attention.sum(dim=2, keepdim=True)
    weighed = own * values[:, :, 0] + torch.einsum("bhn,bhnd->bhd", attention, values[:, :, 1:])
    assert torch.allclose(weighed.flatten(1), seen["weighed"][:, 0], rtol=1e-4, atol=1e-5)


def test_the_fewest_patches_that_hold_the_mass() -> None:
    attention = torch.tensor([[0.4, 0.1, 0.3, 0.2], [2.0, 2.0, 4.0, 0.0]])
    assert heaviest(attention, 0.6)[0].tolist() == [True, False, True, False]
    assert heaviest(attention, 0.95)[0].all()
    assert heaviest(attention, 1.0)[1].tolist() == [True, True, True, False]


def test_jaccard_of_masks_in_pixels() -> None:
    masks = to_pixels(torch.tensor([[True, False, False, False]]), 4)
    assert masks.shape == (1, 4, 4)
    assert masks[0, :2, :2].all()
    assert masks.sum() == 4
    objects = torch.zeros(1, 4, 4, dtype=torch.bool)
    objects[0, :2, :] = True
    assert jaccard(masks, objects).tolist() == [0.5]
    assert jaccard(masks, ~masks).tolist() == [0.0]
    nothing = torch.zeros_like(masks)
    assert jaccard(nothing, nothing).tolist() == [0.0]
    assert share_inside(torch.tensor([[0.3, 0.3, 0.2, 0.2]]), objects).item() == pytest.approx(0.6)


def test_colours_are_the_main_directions() -> None:
    torch.manual_seed(0)
    strong = torch.randn(2, 50, 1)
    tokens = torch.cat([10 * strong, torch.randn(2, 50, 6) * 0.1], dim=2)
    colours = principal_colours(tokens)
    assert colours.shape == (2, 50, 3)
    assert 0 <= colours.min() <= colours.max() <= 1
    both = torch.stack([colours[:, :, 0].flatten(), strong.flatten()])
    assert torch.corrcoef(both)[0, 1].abs() > 0.95


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_objects_have_colours_and_the_ground_is_black(sign: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = 0.1 * torch.randn(2, 36, 8, generator=generator)
    inside = torch.zeros(2, 6, 6, dtype=torch.bool)
    inside[0, 1:4, 2:5] = True
    inside[1, 2:5, 0:3] = True  # one that the border cuts
    tokens[inside.flatten(1)] += 5 * sign
    tokens[0, inside[0].flatten(), 1] += 2  # another kind of object
    colours = foreground_colours(tokens)
    assert torch.equal(colours.amax(dim=-1) > 0, inside.flatten(1))
    kinds = [colours[image][inside[image].flatten()] for image in (0, 1)]
    between = (kinds[0].mean(dim=0) - kinds[1].mean(dim=0)).abs().max()
    assert between > 0.5, "the first direction within the objects tells the two kinds apart"


def test_where_no_patch_differs_no_object_is_drawn() -> None:
    assert not foreground_colours(torch.ones(2, 16, 8)).any()
