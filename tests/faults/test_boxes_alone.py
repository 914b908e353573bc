"""Sets of boxes without masks: detectors train on them, and tasks of masks say what they lack."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from steps import layout, segment
from steps.artifacts import read_manifest, read_records, write_scores
from steps.command import UserError
from steps.data.annotations import has_masks
from steps.detect import main as detect
from steps.detection.dataset import Detections
from steps.detection.train import build_detector, with_masks
from steps.params.detection import Augmentation, Detection, RangeCrop
from steps.params.load import validate
from steps.report import main as report
from tests.unit.detection.conftest import SMALL, make_backbone, make_scenes, seal
from tests.unit.reporting import synthetic

CASCADES: dict[str, Any] = {
    "Faster R-CNN": None,
    "Cascade R-CNN, Detectron2's": {"masks": "first"},
    "Cascade R-CNN, mmdet's": {"masks": "each", "resample": True, "shared_gradient": False},
}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that stops leaves its scratch folder where it runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def scenes(folder: Path) -> Path:
    return make_scenes(folder / "scenes", train=8, val=4)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Path:
    return make_backbone(folder / "backbone")


def without(scenes: Path, out: Path, *keys: str, **facts: Any) -> Path:
    """A copy of a prepared set whose annotations lack some keys."""
    shutil.copytree(scenes, out)
    for split in ("train", "val"):
        content = json.loads((out / f"{split}.json").read_text())
        for box in content["annotations"]:
            for key in keys:
                del box[key]
        (out / f"{split}.json").write_text(json.dumps(content))
    seal(out, **facts)
    return out


@pytest.fixture(scope="module")
def boxes(scenes: Path, folder: Path) -> Path:
    return without(scenes, folder / "boxes", "segmentation", masks=False)


def run(step: Any, name: str, folder: Path, protocol: dict[str, Any], **paths: Path) -> Path:
    """Run a step with a protocol and paths; gives its record file."""
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(protocol))
    out = folder / f"{name}.json"
    flags = ["--protocol", str(file), "--out", str(out)]
    flags += [text for key, path in paths.items() for text in (f"--{key}", str(path))]
    saved, sys.argv = sys.argv, [name, *flags]
    try:
        step()
    finally:
        sys.argv = saved
    return out


def protocol(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SMALL), "epochs": 1, **changes}


def metrics(out: Path) -> tuple[set[str], dict[str, Any]]:
    records, manifest = read_records(out)
    assert all(np.isfinite(record.value) for record in records)
    return {record.metric for record in records}, manifest.facts


@pytest.mark.parametrize("kind", CASCADES)
def test_a_detector_without_mask_head_trains_and_is_measured_by_boxes(
    kind: str, boxes: Path, backbone: Path, tmp_path: Path
) -> None:
    params = protocol(heads={**SMALL["heads"], "cascade": CASCADES[kind]})
    if CASCADES[kind] is None:
        del params["heads"]["mask_channels"]
    pictures = tmp_path / "pictures"
    paths = {"backbone": backbone, "data": boxes, "pictures": pictures}
    found, facts = metrics(run(detect, "detect", tmp_path, params, **paths))
    assert {"box_AP", "box_AP50", "box_AP75"} <= found
    assert not any(name.startswith("mask") for name in found)
    assert facts["masks"] is False
    assert facts["metrics_without_ground_truth"] == ["box_APm", "box_APl"]
    assert facts["train_boxes"] > 0
    assert facts["train_boxes_left_out"] == 0
    head = facts["mmengine"]["model"]["roi_head"]
    assert not any(key.startswith("mask_") for key in head)
    assert facts["mmengine"]["model"]["type"] == (
        "FasterRCNN" if CASCADES[kind] is None else "CascadeRCNN"
    )
    assert (pictures / "detections.png").is_file()


def test_a_protocol_can_leave_masks_out(scenes: Path, backbone: Path, tmp_path: Path) -> None:
    paths = {"backbone": backbone, "data": scenes}
    found, facts = metrics(run(detect, "detect", tmp_path, protocol(masks=False), **paths))
    assert {name.partition("_")[0] for name in found} == {"box"}
    assert facts["masks"] is False


def test_a_protocol_that_wants_masks_says_so_before_it_trains(
    boxes: Path, backbone: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"masks: true, and .* is a set of boxes alone"):
        run(detect, "detect", tmp_path, protocol(masks=True), backbone=backbone, data=boxes)


def test_sets_prepared_before_facts_said_so_are_looked_at(
    scenes: Path, boxes: Path, tmp_path: Path
) -> None:
    assert "masks" not in read_manifest(scenes).facts
    assert has_masks(scenes)
    old = without(scenes, tmp_path / "old", "segmentation")
    assert not has_masks(old)
    params = validate(protocol(), Detection, "tiny.yaml")
    assert [with_masks(params, data) for data in (scenes, boxes, old)] == [True, False, False]


@pytest.mark.parametrize(
    ("name", "step", "params"),
    [
        ("segment", segment.main, {"epochs": 1, "batch_size": 4, "lr": 0.01, "weight_decay": 0.0}),
        ("layout", layout.main, {"mass": 0.6, "crop_fraction": 1.0, "batch_size": 3, "shown": 2}),
    ],
)
def test_tasks_of_masks_stop_before_they_read_the_backbone(
    name: str, step: Any, params: dict[str, Any], boxes: Path, tmp_path: Path
) -> None:
    pictures = {"pictures": tmp_path / "pictures"} if name == "layout" else {}
    with pytest.raises(UserError, match=rf"a set of boxes alone, and {name} needs masks") as caught:
        run(step, name, tmp_path, params, data=boxes, backbone=tmp_path / "none", **pictures)
    assert f"leave the task {name} out" in str(caught.value)


def samples(data: Path, masks: bool, **options: Any) -> Iterator[tuple[Any, Any]]:
    views = Detections(data, "train", image_size=64, masks=masks, **options)
    for epoch in range(3):
        views.epoch = epoch
        for index in range(len(views)):
            yield views[index]["inputs"], views[index]["data_samples"].gt_instances


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": Augmentation()},
        {"augmentation": Augmentation(scale_jitter=[1.0, 2.0], min_box=1.0)},
        {
            "short_side": 48,
            "augmentation": Augmentation(
                short_sides=[40, 60],
                crop=RangeCrop(short_sides=[50, 80], sides=[20, 40]),
                min_box=1.0,
            ),
        },
    ],
    ids=["flip", "jitter", "crop"],
)
def test_boxes_alone_follow_their_pixels_as_masks_do(
    options: dict[str, Any], scenes: Path, boxes: Path
) -> None:
    """Shapes fill their boxes but for a disc's corners: a cut moves its box by those alone."""
    seen = 0
    pairs = zip(samples(scenes, True, **options), samples(boxes, False, **options), strict=True)
    for (pixels, masked), (same, alone) in pairs:
        assert (pixels == same).all()
        assert "masks" not in alone
        found = alone.bboxes.numpy()
        height, width = pixels.shape[1:]
        assert (found >= 0).all()
        assert (found <= [width, height, width, height]).all()
        for box in masked.bboxes.numpy():
            if (box[2:] - box[:2]).min() < 4:
                continue
            assert np.abs(found - box).max(axis=1).min() < 8
            seen += 1
    assert seen > 10


def test_an_image_without_detections_is_counted(boxes: Path, backbone: Path) -> None:
    params = validate(protocol(inference={"score_threshold": 1.0}), Detection, "tiny.yaml")
    model = build_detector(params, backbone=backbone, classes=2, seed=0, masks=False).eval()
    sample = Detections(boxes, "val", image_size=64, masks=False)[0]
    (found,) = model.test_step({key: [sample[key]] for key in sample})
    assert len(found.pred_instances.bboxes) == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_objects_stops_a_detector_before_it_trains(
    split: str, scenes: Path, backbone: Path, tmp_path: Path
) -> None:
    """As sets that were prepared before may be."""
    data = without(scenes, tmp_path / "data")
    content = json.loads((data / f"{split}.json").read_text())
    (data / f"{split}.json").write_text(json.dumps({**content, "annotations": []}))
    seal(data)
    with pytest.raises(UserError, match=rf"{split}\.json: no object"):
        run(detect, "detect", tmp_path, protocol(), backbone=backbone, data=data)


def test_no_number_is_no_record(backbone: Path, scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="detect has no number to record"):
        write_scores(
            tmp_path / "detect.json",
            {},
            task="detect",
            protocol=tmp_path / "tiny.yaml",
            params={},
            inputs={"backbone": backbone, "data": scenes},
            dataset="scenes",
            started=0.0,
        )


@pytest.mark.parametrize(("key", "value"), [("area", None), ("area", "81"), ("iscrowd", "no")])
def test_annotations_of_before_that_were_not_checked_are_named(
    key: str, value: Any, scenes: Path, backbone: Path, tmp_path: Path
) -> None:
    data = without(scenes, tmp_path / "data")
    content = json.loads((data / "val.json").read_text())
    content["annotations"][1][key] = value
    (data / "val.json").write_text(json.dumps(content))
    seal(data)
    with pytest.raises(UserError, match=r"val\.json: annotation 2 has .* prepare the dataset"):
        run(detect, "detect", tmp_path, protocol(), backbone=backbone, data=data)
    with pytest.raises(UserError, match=r"val\.json: annotation 2 has .* prepare the dataset"):
        layout.objects(data, "val")


@pytest.mark.parametrize("mask", [[[1, 1, 2, 2]], "abc", [[1, 1, 1e300, 1, 5, 5]]])
def test_masks_of_before_that_were_not_checked_are_named(
    mask: Any, scenes: Path, tmp_path: Path
) -> None:
    data = without(scenes, tmp_path / "data")
    content = json.loads((data / "val.json").read_text())
    content["annotations"][0]["segmentation"] = mask
    (data / "val.json").write_text(json.dumps(content))
    seal(data)
    with pytest.raises(UserError, match=r"annotation 1: its .* prepare the dataset again"):
        layout.objects(data, "val")


def test_a_report_of_boxes_alone_has_no_column_of_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(synthetic.METRICS, "detect", ("box_AP", "box_AP50"))
    made = synthetic.build(tmp_path, methods=("random", "mae"), tasks=("detect",))
    report(["--experiment", str(made.params), "--results", str(made.results), "--out", "reports/a"])
    page = Path("reports/a/README.md").read_text()
    assert re.search(r"\| Model +\| Seeds \| +box_AP \|\n", page)
    assert re.search(r"\| Model +\| Seeds \| +box_AP50 \|\n", page)
    assert "mask_AP" not in page
    assert "mask_AP" not in Path("reports/a/results.csv").read_text()
    report(["--check", "reports/a"])
