"""Layer-wise decay of the learning rate over a detector."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from steps.detection.backbone import ViTDet
from steps.detection.optimizer import decays, layer_of, parameter_groups
from steps.detection.pyramid import SimplePyramid


class Detector(nn.Module):
    """What the groups are made over: a backbone and something else."""

    def __init__(self) -> None:
        super().__init__()
        vit = timm.create_model(
            "vit_tiny_patch16_224",
            num_classes=0,
            img_size=32,
            patch_size=8,
            embed_dim=16,
            depth=4,
            num_heads=2,
            init_values=0.1,
        )
        self.backbone = ViTDet(vit, window_size=2, global_blocks=2, relative_grid=4)
        self.neck = SimplePyramid(16, [1, 0.5], 8)


def test_every_parameter_has_one_group_and_its_layer_s_rate() -> None:
    model = Detector()
    groups = parameter_groups(model, depth=4, lr=1e-4, weight_decay=0.1, layer_decay=0.7)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    # Reference: ViTDet's groups in mmdet at depth 4, rate 0.7 (five steps from head to patches).
    scales = {group["name"]: group["lr_scale"] for group in groups}
    assert scales["layer_0_decay"] == pytest.approx(0.16807)
    assert scales["layer_3_no_decay"] == pytest.approx(0.49)
    assert scales["layer_5_decay"] == 1.0
    assert all(group["lr"] == pytest.approx(1e-4 * group["lr_scale"]) for group in groups)
    torch.optim.AdamW(groups)


@pytest.mark.parametrize(
    ("name", "layer", "decayed"),
    [
        ("backbone.pos_embed", 0, False),
        ("backbone.proj.weight", 0, True),
        ("backbone.proj.bias", 0, True),
        ("backbone.norm_pre.weight", 0, True),
        ("backbone.blocks.0.norm1.weight", 1, False),
        ("backbone.blocks.3.attn.qkv.bias", 4, True),
        ("backbone.blocks.3.attn.q_norm.weight", 4, False),
        ("backbone.blocks.2.ls1.gamma", 3, False),
        ("backbone.relative.2.rows", 3, True),
        ("neck.output.0.1.weight", 5, True),
        ("roi_head.bbox_head.fc_cls.weight", 5, True),
    ],
)
def test_layers_and_decay(name: str, layer: int, decayed: bool) -> None:
    assert layer_of(name, depth=4) == layer
    assert decays(name) is decayed


def test_vectors_without_decay() -> None:
    # Reference: BEiT's and iBOT's layer-wise decay in mmdet: one axis, or the positions.
    model = Detector()
    groups = parameter_groups(model, 4, 1e-4, 0.1, 0.7, undecayed="vectors")
    decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = parameter.ndim > 1 and name != "backbone.pos_embed"
        assert (id(parameter) in decayed) is expected, name
