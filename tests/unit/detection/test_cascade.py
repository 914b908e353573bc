"""Cascade Mask R-CNN: its stages, its one mask head, its gradients, a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample

from steps.command import UserError
from steps.detection.dataset import Detections
from steps.detection.heads import CascadeHeads, scale_gradient, stages
from steps.detection.train import build_detector, train_and_evaluate
from steps.params.detection import Augmentation, Detection

Small = Callable[..., Detection]

DETECTRON2: dict[str, Any] = {}
MMDET: dict[str, Any] = {
    "loss_weights": [1.0, 0.5, 0.25],
    "shared_gradient": False,
    "resample": True,
    "masks": "each",
}


@pytest.fixture
def cascade(small: Small, small_values: dict[str, Any]) -> Callable[..., Detection]:
    """The protocol of seconds with a cascade."""

    def changed(**options: Any) -> Detection:
        heads = {**small_values["heads"], "class_agnostic_boxes": True, "cascade": options}
        return small(epochs=1, heads=heads)

    return changed


def losses(params: Detection, backbone: Path, scenes: Path) -> tuple[Any, dict[str, Any]]:
    """A detector in training mode, and its losses on four images."""
    model = build_detector(params, backbone=backbone, classes=2, seed=0).train()
    data = Detections(scenes, "train", image_size=64, augmentation=Augmentation(), keep_empty=False)
    samples = [data[index] for index in range(4)]
    batch = {key: [sample[key] for sample in samples] for key in ("inputs", "data_samples")}
    torch.manual_seed(0)
    batch = model.data_preprocessor(batch, training=True)
    return model, model(**batch, mode="loss")


def test_detectron2_s_form_has_one_mask_head_and_equal_stages(
    cascade: Small, backbone: Path, scenes: Path
) -> None:
    model, found = losses(cascade(**DETECTRON2), backbone, scenes)
    heads = model.roi_head
    assert isinstance(heads, CascadeHeads)
    assert (len(heads.bbox_head), len(heads.mask_head)) == (3, 1)
    # Reference: Detectron2's configuration, weights (10, 10, 5, 5), (20, 20, 10, 10), (30, ...).
    for head, weight in zip(heads.bbox_head, (10, 20, 30), strict=True):
        expected = [1 / weight, 1 / weight, 2 / weight, 2 / weight]
        assert list(head.bbox_coder.stds) == pytest.approx(expected)
        assert head.fc_reg.out_features == 4
    assert [name for name in found if "mask" in name] == ["s0.loss_mask"]
    assert {"s0.loss_bbox", "s1.loss_bbox", "s2.loss_bbox"} <= found.keys()


def test_mmdet_s_form_weighs_stages_and_has_a_mask_head_each(
    cascade: Small, backbone: Path, scenes: Path
) -> None:
    model, found = losses(cascade(**MMDET), backbone, scenes)
    assert len(model.roi_head.mask_head) == 3
    assert {"s0.loss_mask", "s1.loss_mask", "s2.loss_mask"} <= found.keys()
    # An untrained classifier of 2 classes and background: ln 3, times the stage's weight.
    for stage, weight in enumerate((1.0, 0.5, 0.25)):
        assert found[f"s{stage}.loss_cls"].item() / weight == pytest.approx(1.0986, abs=0.1)


def test_later_stages_take_all_boxes_or_sample_again(cascade: Small) -> None:
    kept = stages(cascade(**DETECTRON2).heads)
    assert isinstance(kept, list)
    assert [stage["assigner"]["pos_iou_thr"] for stage in kept] == [0.5, 0.6, 0.7]
    assert [stage["sampler"]["type"] for stage in kept] == [
        "RandomSampler", "PseudoSampler", "PseudoSampler"
    ]  # fmt: skip
    again = stages(cascade(**MMDET).heads)
    assert isinstance(again, list)
    assert [stage["sampler"]["type"] for stage in again] == ["RandomSampler"] * 3


def test_box_heads_share_the_gradient_of_the_features(
    cascade: Small, backbone: Path, scenes: Path
) -> None:
    def gradient(shared: bool) -> torch.Tensor:
        params = cascade(shared_gradient=shared)
        model, found = losses(params, backbone, scenes)
        found["s0.loss_cls"].backward()
        weight: torch.Tensor = model.neck.output[0][0].weight
        assert weight.grad is not None
        return weight.grad

    torch.testing.assert_close(gradient(True) * 3, gradient(False), rtol=1e-4, atol=1e-7)


def test_scaled_gradients_leave_values_alone() -> None:
    values = torch.tensor([1.0, -2.0], requires_grad=True)
    scaled = scale_gradient(values, 0.25)
    assert torch.equal(scaled, values)
    scaled.square().sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, torch.tensor([0.5, -1.0]))


@pytest.mark.parametrize("options", [DETECTRON2, MMDET], ids=["Detectron2", "mmdet"])
def test_a_whole_run(
    options: dict[str, Any], cascade: Small, backbone: Path, scenes: Path, tmp_path: Path
) -> None:
    outcome = train_and_evaluate(
        cascade(**options), backbone=backbone, data=scenes, seed=0, scratch=tmp_path
    )
    assert {"box_AP", "mask_AP"} <= outcome.metrics.keys()
    assert all(0 <= value <= 100 for value in outcome.metrics.values())


def test_images_without_detections_have_no_masks(
    cascade: Small, small_values: dict[str, Any], backbone: Path, scenes: Path
) -> None:
    params = cascade(**DETECTRON2)
    nothing = params.model_copy(
        update={"inference": params.inference.model_copy(update={"score_threshold": 1.0})}
    )
    model = build_detector(nothing, backbone=backbone, classes=2, seed=0).eval()
    sample = Detections(scenes, "val", image_size=64)[0]
    with torch.no_grad():
        (found,) = model.test_step({key: [sample[key]] for key in sample})
    assert isinstance(found, DetDataSample)
    assert found.pred_instances.masks.shape[0] == 0


def test_a_value_for_each_stage(cascade: Small) -> None:
    with pytest.raises(UserError, match=r"cascade.*each needs one value per stage"):
        cascade(positive_ious=[0.5, 0.6])
