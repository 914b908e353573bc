"""A detector or a segmentation head that diverges stops in one line, and nothing is published."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from steps import segment
from steps.command import UserError
from steps.data.annotations import IGNORED
from steps.detect import main as detect
from steps.detection.evaluation import CocoAP
from steps.detection.train import build_runner
from steps.evaluation.segmentation import mean_loss
from steps.params.detection import Detection
from steps.params.load import validate
from tests.unit.detection.conftest import SMALL, make_backbone, make_scenes, seal


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that stops leaves its scratch folder where it runs."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    data = make_scenes(folder / "scenes", train=10, val=4)
    return {"data": data, "backbone": make_backbone(folder / "backbone")}


def small(**optimizer: Any) -> dict[str, Any]:
    values = copy.deepcopy(SMALL)
    values["optimizer"].update(optimizer)
    return values


def run(step: Any, protocol: dict[str, Any], folder: Path, paths: dict[str, Path]) -> Path:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(protocol))
    out = folder / "out.json"
    flags = ["--protocol", str(folder / "tiny.yaml"), "--out", str(out)]
    flags += [text for key, path in paths.items() for text in (f"--{key}", str(path))]
    saved, sys.argv = sys.argv, ["step", *flags]
    try:
        step()
    finally:
        sys.argv = saved
    return out


@pytest.mark.parametrize("lr", [1e7, 1e30])
def test_a_loss_that_is_not_finite_stops_a_detector(
    lr: float, paths: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        run(detect, small(lr=lr), tmp_path, paths)
    message = str(caught.value)
    assert message.startswith("detection, iteration ")
    assert "the loss is nan" in message
    assert "lower optimizer.lr" in message
    assert not (tmp_path / "out.json").exists()


def test_a_loss_that_has_exploded_stops_a_detector(paths: dict[str, Path], tmp_path: Path) -> None:
    """Its numbers are finite, and its AP of about 0 would look like a result."""
    with pytest.raises(UserError, match=r"the mean loss of epoch 2 is \d+.*, and began at [1-9]\."):
        run(detect, small(lr=10.0), tmp_path, paths)
    assert not (tmp_path / "out.json").exists()


def test_a_weight_that_is_not_finite_is_not_saved(
    paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = validate(small(), Detection, "tiny.yaml")
    runner, _ = build_runner(params, seed=0, scratch=tmp_path, **paths)
    update, last = runner.optim_wrapper.update_params, len(runner.train_dataloader)

    def spoiling(*arguments: Any, **more: Any) -> None:
        update(*arguments, **more)
        if runner.iter + 1 == last:
            with torch.no_grad():
                runner.model.get_parameter("roi_head.bbox_head.fc_cls.bias")[0] = float("inf")

    monkeypatch.setattr(runner.optim_wrapper, "update_params", spoiling)
    with pytest.raises(
        UserError, match=r"roi_head\.bbox_head\.fc_cls\.bias: \d+ of \d+ numbers are not finite"
    ):
        runner.train()
    assert not (tmp_path / "checkpoint.pth").exists()


def test_detections_that_are_not_finite_are_not_measured(
    paths: dict[str, Path],
) -> None:
    found = {
        "bboxes": torch.tensor([[0.0, 0.0, float("nan"), 5.0]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([0]),
        "masks": torch.zeros(1, 64, 64, dtype=torch.bool),
    }
    metric = CocoAP(paths["data"] / "val.json")
    with pytest.raises(UserError, match="detections in image 1: a box or score that is not finite"):
        metric.process(None, [{"img_id": 1, "pred_instances": found}])


@pytest.mark.parametrize(
    ("epochs", "words"),
    [(3, r"step \d of 6: the loss is (nan|inf)"), (1, r"step 2 of 2: .* (nan|inf|not finite)")],
)
def test_a_segmentation_head_that_diverges_stops(
    epochs: int, words: str, paths: dict[str, Path], tmp_path: Path
) -> None:
    protocol = {"epochs": epochs, "batch_size": 4, "lr": 1e30, "weight_decay": 1e30}
    with pytest.raises(UserError, match=f"segment, {words}"):
        run(segment.main, protocol, tmp_path, paths)
    assert not (tmp_path / "out.json").exists()


def test_a_batch_of_ignored_pixels_alone_has_a_loss_of_nought() -> None:
    def gradient(classes: Tensor) -> tuple[float, Tensor]:
        logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        loss = mean_loss(logits.requires_grad_(), classes)
        (found,) = torch.autograd.grad(loss, logits)
        return loss.item(), found

    loss, found = gradient(torch.full((2, 8, 8), IGNORED))
    assert loss == 0
    assert not found.any()
    some = torch.randint(3, (2, 8, 8))
    some[0] = IGNORED
    loss, found = gradient(some)
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.cross_entropy(logits, some, ignore_index=IGNORED)
    assert loss == pytest.approx(expected.item())


def test_two_images_that_a_crowd_covers_train_a_head(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    """A batch may hold them alone."""
    data = make_scenes(tmp_path / "scenes", train=4, val=2)
    content = json.loads((data / "train.json").read_text())
    sizes = {image["id"]: image for image in content["images"]}
    covered = {1, 2, 3}
    boxes = [box for box in content["annotations"] if box["image_id"] not in covered]
    for number in covered:
        width, height = sizes[number]["width"], sizes[number]["height"]
        boxes.append(
            {
                "id": 100 + number,
                "image_id": number,
                "category_id": 1,
                "bbox": [0, 0, width, height],
                "area": width * height,
                "iscrowd": 1,
                "segmentation": {"size": [height, width], "counts": [0, width * height]},
            }
        )
    (data / "train.json").write_text(json.dumps({**content, "annotations": boxes}))
    seal(data)
    protocol = {"epochs": 4, "batch_size": 2, "lr": 0.01, "weight_decay": 0.0}
    out = run(segment.main, protocol, tmp_path, {**paths, "data": data})
    assert out.is_file()
