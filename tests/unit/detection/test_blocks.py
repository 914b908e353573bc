"""The detector of the papers before ViTDet: four blocks' maps, multi-scale images, whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steps.command import UserError
from steps.detection.train import build_detector, train_and_evaluate
from steps.models.backbones import load_backbone
from steps.params.detection import Detection
from steps.params.load import validate

MULTI_SCALE: dict[str, Any] = {
    "image_size": 90,
    "short_side": 64,
    "epochs": 1,
    "backbone": {"window_size": None, "relative_positions": False},
    "pyramid": {"kind": "blocks", "channels": 8, "strides": [4, 8, 16, 32], "blocks": [0, 1, 3]},
    "augmentation": {
        "short_sides": [48, 64],
        "crop": {"short_sides": [40, 56], "sides": [24, 40]},
    },
}


def ibot(values: dict[str, Any]) -> dict[str, Any]:
    heads = {"cascade": {"masks": "each", "resample": True, "shared_gradient": False}}
    norms = {"box_norm": "batch", "mask_norm": "none", "box_loss": "giou", "box_loss_weight": 10.0}
    return {**values, **MULTI_SCALE, "heads": {**values["heads"], **heads, **norms}}


@pytest.mark.parametrize("kind", ["backbone", "beit_backbone"])
def test_a_whole_run(
    kind: str,
    request: pytest.FixtureRequest,
    small_values: dict[str, Any],
    scenes: Path,
    tmp_path: Path,
) -> None:
    params = validate(ibot(small_values), Detection, "ibot.yaml")
    outcome = train_and_evaluate(
        params, backbone=request.getfixturevalue(kind), data=scenes, seed=0, scratch=tmp_path
    )
    assert {"box_AP", "mask_AP"} <= outcome.metrics.keys()
    model = outcome.model
    assert isinstance(model.roi_head.bbox_head[0].shared_convs[0].bn, nn.BatchNorm2d)
    assert not hasattr(model.roi_head.mask_head[0].convs[0], "bn")
    # Images are padded to a multiple of 16, the coarsest map's stride.
    assert model.data_preprocessor.pad_size_divisor == 16


def test_the_detector_s_maps_are_the_backbone_s_features(
    small: Callable[..., Detection], backbone: Path
) -> None:
    """At the pretraining resolution, with global attention, on the same image."""
    params = small(
        backbone={"window_size": None, "relative_positions": False},
        pyramid={"kind": "blocks", "channels": 8, "strides": [4, 8, 16], "blocks": [1, 3]},
    )
    model = build_detector(params, backbone=backbone, classes=2, seed=0).eval()
    images = torch.randn(2, 3, 64, 64)
    seen: list[tuple[torch.Tensor, ...]] = []
    model.neck.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vit = load_backbone(backbone)
    # The class token is the one thing that the detector leaves out: no patch is to look at it.
    alone = type(vit)(
        img_size=64, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=0,
        class_token=False, global_pool="avg", fc_norm=False,
    )  # fmt: skip
    weights = {name: tensor for name, tensor in vit.state_dict().items() if name != "cls_token"}
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    alone.load_state_dict(weights)
    with torch.no_grad():
        model.extract_feat(images)
        expected = alone.eval().forward_intermediates(
            images, indices=[1, 3], norm=False, intermediates_only=True
        )
    for found, wanted in zip(seen[0], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("pyramid", "message"),
    [
        ({"kind": "simple", "blocks": [1, 2, 3]}, "need kind: blocks"),
        ({"kind": "blocks", "blocks": [1, 2]}, "one per stride of"),
        ({"kind": "blocks", "blocks": [2, 1, 3]}, "above the one before"),
    ],
)
def test_pyramids_that_cannot_be(
    pyramid: dict[str, Any], message: str, small_values: dict[str, Any]
) -> None:
    values = {"channels": 8, "strides": [4, 8, 16, 32], **pyramid}
    with pytest.raises(UserError, match=message):
        validate({**small_values, "pyramid": values}, Detection, "bad.yaml")


def test_multi_scale_needs_a_short_side(small_values: dict[str, Any]) -> None:
    values = {**small_values, "augmentation": {"short_sides": [48]}}
    with pytest.raises(UserError, match="needs short_side"):
        validate(values, Detection, "bad.yaml")
