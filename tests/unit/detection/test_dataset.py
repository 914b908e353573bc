"""Samples of a prepared detection dataset: targets follow their pixels through every change."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.command import UserError
from steps.data.annotations import class_names
from steps.detection.dataset import Detections, Targets
from steps.params.detection import Augmentation, RangeCrop


def corners(samples: Any) -> np.ndarray[Any, Any]:
    return np.asarray(samples.gt_instances.bboxes.numpy())


def boxes_of_masks(masks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = []
    for mask in masks:
        rows, columns = np.where(mask)
        found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return np.array(found)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("jitter", [None, [0.4, 0.6], [1.0, 1.8]])
def test_boxes_stay_around_their_masks(
    scenes: Path, flip: float, jitter: list[float] | None
) -> None:
    augmentation = Augmentation(flip=flip, scale_jitter=jitter, min_box=1.0)
    data = Detections(scenes, "train", image_size=96, augmentation=augmentation)
    seen = 0
    for index in range(len(data)):
        sample = data[index]
        height, width = sample["inputs"].shape[1:]
        assert max(height, width) <= 96
        assert sample["inputs"].dtype == torch.uint8
        objects = sample["data_samples"].gt_instances
        assert objects.masks.masks.shape[1:] == (height, width)
        if len(objects.bboxes):
            expected = boxes_of_masks(objects.masks.masks)
            np.testing.assert_allclose(corners(sample["data_samples"]), expected, atol=3)
            seen += len(expected)
    assert seen >= 5


@pytest.mark.parametrize("crop", [None, {"short_sides": [40, 60], "sides": [20, 40]}])
def test_multi_scale_images_have_one_of_the_short_sides(
    scenes: Path, crop: dict[str, Any] | None
) -> None:
    augmentation = Augmentation(
        short_sides=[50, 70], crop=None if crop is None else RangeCrop(**crop), min_box=1.0
    )
    data = Detections(scenes, "train", image_size=80, short_side=60, augmentation=augmentation)
    shorts, shapes, seen = set(), set(), 0
    for epoch in range(4):
        data.epoch = epoch
        for index in range(len(data)):
            sample = data[index]
            height, width = sample["inputs"].shape[1:]
            shorts.add(min(height, width))
            shapes.add(round(max(height, width) / min(height, width), 1))
            assert max(height, width) <= 80
            objects = sample["data_samples"].gt_instances
            if len(objects.bboxes):
                expected = boxes_of_masks(objects.masks.masks)
                np.testing.assert_allclose(corners(sample["data_samples"]), expected, atol=4)
                seen += len(expected)
    assert seen >= 5
    # A long image is smaller: its long side is the limit then.
    assert {50, 70} <= shorts
    assert max(shorts) == 70
    # Cut images have other proportions.
    assert (max(shapes) > 1.5) is (crop is not None)


def test_validation_images_have_the_short_side_within_the_longest(scenes: Path) -> None:
    for longest in (60, 200):
        data = Detections(scenes, "val", image_size=longest, short_side=60)
        for index in range(len(data)):
            height, width = data[index]["inputs"].shape[1:]
            before = data[index]["data_samples"].metainfo["ori_shape"]
            assert max(height, width) == 60 if longest == 60 else min(height, width) == 60
            assert height / width == pytest.approx(before[0] / before[1], abs=0.03)


def test_flipping_mirrors_pixels_boxes_and_masks(scenes: Path) -> None:
    plain, mirrored = (
        Detections(scenes, "train", image_size=64, augmentation=Augmentation(flip=flip))[0]
        for flip in (0.0, 1.0)
    )
    assert torch.equal(plain["inputs"].flip(2), mirrored["inputs"])
    width = plain["inputs"].shape[2]
    left, right = corners(plain["data_samples"])[:, 0], corners(plain["data_samples"])[:, 2]
    np.testing.assert_allclose(corners(mirrored["data_samples"])[:, 0], width - right, rtol=1e-5)
    np.testing.assert_allclose(corners(mirrored["data_samples"])[:, 2], width - left, rtol=1e-5)


def test_draws_depend_on_seed_epoch_and_image_alone(scenes: Path) -> None:
    def sample(seed: int, epoch: int) -> Any:
        augmentation = Augmentation(scale_jitter=[0.5, 2.0])
        data = Detections(scenes, "train", image_size=64, seed=seed, augmentation=augmentation)
        data.epoch = epoch
        return pickle.loads(pickle.dumps(data))[3]["inputs"]

    assert torch.equal(sample(0, 1), sample(0, 1))
    assert sample(0, 1).shape != sample(0, 2).shape or not torch.equal(sample(0, 1), sample(0, 2))
    assert sample(1, 1).shape != sample(0, 1).shape or not torch.equal(sample(1, 1), sample(0, 1))


def test_crowds_are_no_targets(scenes: Path) -> None:
    samples = Detections(scenes, "train", image_size=64, augmentation=Augmentation())[2]
    assert len(samples["data_samples"].gt_instances.bboxes) == 0
    assert len(samples["data_samples"].ignored_instances.bboxes) > 0


def test_images_without_targets_are_kept_or_left_out(scenes: Path) -> None:
    kept = Detections(scenes, "train", image_size=64, augmentation=Augmentation())
    dropped = Detections(
        scenes, "train", image_size=64, augmentation=Augmentation(), keep_empty=False
    )
    assert (len(kept), kept.images_dropped) == (10, 0)
    assert (len(dropped), dropped.images_dropped) == (8, 2)
    with pytest.raises(UserError, match=r"no image is left .* min_image_size"):
        Detections(scenes, "train", image_size=64, augmentation=Augmentation(), min_image_size=500)


def test_validation_samples_say_how_to_go_back(scenes: Path) -> None:
    data = Detections(scenes, "val", image_size=128)
    sample = data[0]
    meta = sample["data_samples"].metainfo
    height, width = sample["inputs"].shape[1:]
    assert max(height, width) == 128
    assert meta["scale_factor"] == (
        width / meta["ori_shape"][1],
        height / meta["ori_shape"][0],
    )
    assert data.metainfo["classes"] == class_names(scenes) == ("rectangle", "disc")


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]],
        {"size": [6, 8], "counts": [7, 3, 3, 3, 3, 3, 3, 3, 20]},
    ],
    ids=["polygon", "run lengths"],
)
def test_masks_of_polygons_and_run_lengths(segmentation: Any) -> None:
    box = {"corners": [1, 1, 5, 4], "label": 0, "crowd": False, "id": 1}
    box["segmentation"] = segmentation
    (mask,) = Targets.from_annotations([box], 6, 8).masks.masks
    expected = np.zeros((6, 8), np.uint8)
    expected[1:4, 1:5] = 1
    np.testing.assert_array_equal(mask, expected)


def test_annotations_of_other_images(scenes: Path, tmp_path: Path) -> None:
    copy = tmp_path / "scenes"
    shutil.copytree(scenes, copy)
    content = json.loads((copy / "val.json").read_text())
    content["images"].reverse()
    (copy / "val.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"val\.json: other images than val\.arrow"):
        Detections(copy, "val", image_size=64)
    content["categories"] = content["categories"][:1]
    (copy / "val.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="other categories"):
        class_names(copy)
