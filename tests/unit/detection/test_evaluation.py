"""COCO's average precision: what a perfect, an absent and a half-right answer get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.detection.evaluation import CocoAP

SIDE = 100


def write_truth(path: Path, boxes: list[tuple[int, int, int, int]]) -> Path:
    annotations = [
        {
            "id": index + 1,
            "image_id": 7,
            "category_id": 3,
            "bbox": [left, top, width, height],
            "area": width * height,
            "iscrowd": 0,
            "segmentation": [
                [left, top, left + width, top, left + width, top + height, left, top + height]
            ],
        }
        for index, (left, top, width, height) in enumerate(boxes)
    ]
    content = {
        "images": [{"id": 7, "file_name": "a", "width": SIDE, "height": SIDE}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "disc"}],
    }
    path.write_text(json.dumps(content))
    return path


def measure(truth: Path, boxes: list[tuple[int, int, int, int]]) -> dict[str, float]:
    masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.bool)
    for mask, (left, top, width, height) in zip(masks, boxes, strict=True):
        mask[top : top + height, left : left + width] = True
    corners = [[left, top, left + width, top + height] for left, top, width, height in boxes]
    sample: dict[str, Any] = {
        "img_id": 7,
        "pred_instances": {
            "bboxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.linspace(0.9, 0.5, len(boxes)),
            "labels": torch.zeros(len(boxes), dtype=torch.long),
            "masks": masks,
        },
    }
    metric = CocoAP(truth)
    metric.process(None, [sample])
    return metric.compute_metrics(metric.results)


def test_a_perfect_answer_and_sizes_without_truth(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "val.json", [(10, 10, 20, 20), (40, 40, 50, 50)])
    metrics = measure(truth, [(10, 10, 20, 20), (40, 40, 50, 50)])
    assert set(metrics) == {
        f"{kind}_{name}"
        for kind in ("box", "mask")
        for name in ("AP", "AP50", "AP75", "APs", "APm")
    }
    assert all(value == pytest.approx(100) for value in metrics.values())


def test_no_answer(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "val.json", [(10, 10, 20, 20)])
    metrics = measure(truth, [])
    assert metrics["box_AP"] == metrics["mask_AP50"] == 0


def test_an_overlap_of_sixty_percent_counts_up_to_there(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "val.json", [(10, 10, 20, 20)])
    # 12 of 20 rows: intersection over union 0.6, right at thresholds 0.5, 0.55 and 0.6 of ten.
    metrics = measure(truth, [(10, 10, 20, 12)])
    assert metrics["box_AP"] == pytest.approx(30)
    assert (metrics["box_AP50"], metrics["box_AP75"]) == (pytest.approx(100), 0)
    assert metrics["mask_AP"] == pytest.approx(30)


def test_one_of_two_found(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "val.json", [(10, 10, 20, 20), (60, 60, 20, 20)])
    # Recall is read at 101 points, 51 of which are at or below one half.
    assert measure(truth, [(10, 10, 20, 20)])["box_AP"] == pytest.approx(100 * 51 / 101)
