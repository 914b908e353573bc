"""A BEiT inside the detector, against the BEiT itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from torch import Tensor

from steps.detection.backbone import ViTDet, load_vitdet
from steps.detection.beit import PositionBias, as_plain, position_biases
from steps.detection.optimizer import decays, layer_of
from steps.models.backbones import create_backbone
from steps.models.beit import as_beit
from steps.models.tokens import patch_tokens
from steps.params.backbone import Backbone, BEiTBackbone
from tests.scenery import BACKBONE


def params(**options: Any) -> Backbone:
    return as_beit(Backbone.model_validate(BACKBONE), BEiTBackbone(**options))


def beit(**options: Any) -> Beit:
    torch.manual_seed(0)
    model = create_backbone(params(**options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def vitdet(model: Beit, **arguments: Any) -> ViTDet:
    settings: dict[str, Any] = {"window_size": None, "global_blocks": 2, **arguments}
    return ViTDet(as_plain(model, 0.0), biases=position_biases(model), **settings).eval()


def without_class_token(model: Beit, images: Tensor) -> Tensor:
    """The BEiT's own blocks on patches alone: (B, N, D)."""
    x = patch_tokens(model, images)
    if model.pos_embed is not None:
        x = x + model.pos_embed[:, 1:]
    shared = None if model.rel_pos_bias is None else model.rel_pos_bias()[:, 1:, 1:]
    for block in model.blocks:
        attn, bias = block.attn, shared
        if attn.relative_position_bias_table is not None:
            own = attn._get_rel_pos_bias()[0, :, 1:, 1:]
            bias = own if shared is None else own + shared
            attn.relative_position_bias_table = None
        x = block(x, shared_rel_pos_bias=bias)
    return x


@pytest.mark.parametrize("tables", ["none", "shared", "block", "both"])
@pytest.mark.parametrize("layer_scale", [0.0, 0.3])
def test_patch_features_are_the_beits(tables: str, layer_scale: float) -> None:
    absolute = tables in ("none", "both")
    model = beit(relative_positions=tables, layer_scale=layer_scale, absolute_positions=absolute)
    detector = vitdet(model)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (features,) = detector(images)
        expected = without_class_token(model, images)
    torch.testing.assert_close(features.flatten(2).mT, expected, rtol=1e-4, atol=1e-5)


def test_a_window_as_large_as_the_pretraining_grid_takes_its_table() -> None:
    model = beit()
    windows = vitdet(model, window_size=4, global_blocks=0)
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        (whole,) = windows(images)
        parts = [vitdet(model)(half)[0] for half in images.chunk(2, dim=2)]
    torch.testing.assert_close(whole, torch.cat(parts, dim=2), rtol=1e-4, atol=1e-5)


def test_a_table_on_another_grid() -> None:
    """The offset 0 stays the table's middle, and a slope is scaled."""
    steps = torch.arange(-3.0, 4.0)
    table = torch.cat([(10 * steps[:, None] + steps).flatten(), torch.zeros(3)]).unsqueeze(1)
    bias = PositionBias([table], (4, 4))
    with torch.no_grad():
        same, larger = bias(4, 4)[0], bias(8, 8)[0]
    assert same[0, 1] == -1  # query minus key: one column to the left
    assert same[4, 0] == 10
    assert larger.diagonal().abs().max() < 1e-5
    # 15 offsets for 7: a step is 7 / 15 of one of the table's, but for the cubic's own ripple.
    centre = 3 * 8 + 3
    assert larger[centre, centre + 1].item() == pytest.approx(-7 / 15, rel=0.03)
    assert larger[centre + 8, centre].item() == pytest.approx(70 / 15, rel=0.03)


def test_detector_of_an_artifact(beit_backbone: Path) -> None:
    detector = load_vitdet(
        beit_backbone,
        image_size=64,
        window_size=4,
        global_blocks=1,
        relative_positions=True,
        drop_path=0.1,
        checkpoint_activations=True,
    )
    assert detector.blocks[3].drop_path1.drop_prob == pytest.approx(0.1)
    (features,) = detector.train()(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, 32, 8, 8)
    features.square().mean().backward()
    for index, bias in enumerate(detector.biases):
        assert bias.table.grad.abs().max() > 0
        name = f"backbone.biases.{index}.table"
        assert (layer_of(name, 4), decays(name)) == (index + 1, True)
