"""Replay the golden case ``coco_eval``: the twelve numbers, by class and by threshold."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO

from steps.detection.evaluation import CocoAP
from steps.evaluation.precision import (
    KINDS,
    STATISTICS,
    by_category,
    by_threshold,
    evaluate,
    twelve_numbers,
)
from tests.golden.case import Case

Detections = list[dict[str, Any]]
TOLERANCE = 1e-6
RECORDED = {
    "APs": "AP_small",
    "APm": "AP_medium",
    "APl": "AP_large",
    "AR1": "AR_1",
    "AR10": "AR_10",
    "AR100": "AR_100",
    "ARs": "AR_small",
    "ARm": "AR_medium",
    "ARl": "AR_large",
}
"""The case's names of our numbers, where they differ."""


def replay(case: Case) -> None:
    """Boxes, masks and masks with boxes by the evaluation, and both by the metric of training."""
    facts, files = case.facts, {name: case.folder / name for name in case.facts["files"]}
    boxes: Detections = json.loads(files["detections_bbox.json"].read_text())
    masks: Detections = json.loads(files["detections_segm.json"].read_text())
    both = [{**mask, "bbox": box["bbox"]} for box, mask in zip(boxes, masks, strict=True)]
    results = {"bbox": boxes, "segm": masks, "segm_when_results_also_carry_boxes": both}
    assert facts["expected"].keys() == results.keys()
    annotations = files["annotations.json"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        _check_counts(case, truth, boxes)
        for name, detections in results.items():
            _compare(case, name, truth, [dict(entry) for entry in detections])
    _compare_metric(case, annotations, truth, boxes, masks)


def _check_counts(case: Case, truth: COCO, detections: Detections) -> None:
    options, entries = case.facts["options"], truth.dataset["annotations"]
    counts = {
        "images": len(truth.imgs),
        "categories": len(truth.cats),
        "annotations": len(entries),
        "crowd_annotations": sum(entry["iscrowd"] for entry in entries),
        "detections": len(detections),
        "distinct_scores": len({entry["score"] for entry in detections}),
    }
    for name, count in counts.items():
        case.number(count, options[name], name)


def _compare(case: Case, name: str, truth: COCO, detections: Detections) -> None:
    evaluation = evaluate(truth, detections, name.split("_")[0])
    params, recorded = evaluation.params, case.facts["parameters"]
    assert params.maxDets == recorded["max_detections"]
    assert len(params.recThrs) == recorded["recall_points"]
    ranges = dict(zip(params.areaRngLbl, params.areaRng, strict=True))
    assert all(ranges[size] == wanted for size, wanted in recorded["area_ranges"].items())
    expected = case.facts["expected"][name]
    _numbers(case, twelve_numbers(evaluation), expected["stats"], name)
    names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
    ours = {names[index]: numbers for index, numbers in by_category(evaluation).items()}
    assert ours.keys() == expected["per_category"].keys()
    for category, numbers in ours.items():
        _numbers(case, numbers, expected["per_category"][category], f"{name} {category}")
    thresholds = {f"{at:.2f}": value for at, value in by_threshold(evaluation).items()}
    _numbers(case, thresholds, expected["AP_per_iou"], f"{name} at")


def _numbers(case: Case, ours: dict[str, float], theirs: dict[str, float], where: str) -> None:
    assert {RECORDED.get(name, name) for name in ours} == theirs.keys(), where
    for name, value in ours.items():
        case.compared += 1
        wanted = theirs[RECORDED.get(name, name)]
        assert abs(value - wanted) <= TOLERANCE, f"{where} {name}: {value}, recorded {wanted}"


def _compare_metric(
    case: Case, annotations: Path, truth: COCO, boxes: Detections, masks: Detections
) -> None:
    """The same detections as a detector gives them: corners, dense masks, labels from 0."""
    metric = CocoAP(annotations)
    labels = [category["id"] for category in truth.dataset["categories"]]
    pairs = list(zip(boxes, masks, strict=True))
    for image in truth.imgs.values():
        found = [pair for pair in pairs if pair[0]["image_id"] == image["id"]]
        dense = [rle.decode(mask["segmentation"]).astype(bool) for _, mask in found]
        empty = np.zeros((0, image["height"], image["width"]), dtype=bool)
        corners = torch.tensor([box["bbox"] for box, _ in found], dtype=torch.float64)
        corners = corners.reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        instances = {
            "bboxes": corners,
            "scores": torch.tensor([box["score"] for box, _ in found], dtype=torch.float64),
            "labels": torch.tensor([labels.index(box["category_id"]) for box, _ in found]),
            "masks": torch.from_numpy(np.stack(dense) if dense else empty),
        }
        metric.process(None, [{"img_id": image["id"], "pred_instances": instances}])
    metrics = metric.compute_metrics(metric.results)
    for ours, kind in KINDS.items():
        expected = case.facts["expected"][kind]["stats"]
        for name in STATISTICS:
            wanted = expected[RECORDED.get(name, name)]
            value = metrics.get(f"{ours}_{name}", -100.0) / 100
            case.compared += 1
            assert abs(value - wanted) <= TOLERANCE, f"{ours} {name}: {value}, recorded {wanted}"


REPLAYS = {"coco_eval": replay}
