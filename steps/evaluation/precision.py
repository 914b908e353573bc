"""COCO's average precision of detections, by pycocotools, and on resamples of the images."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from steps.artifacts.decisions import Decisions

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The first six numbers of COCO's summary, at most 100 detections an image."""
NUMBERS = (*STATISTICS, "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""All twelve: then average recall at 1, 10 and 100 detections an image, and at 100 by size."""
KINDS = {"box": "bbox", "mask": "segm"}
_CELLS = 10_000_000
"""Resamples times detections in memory at a time."""


def kinds_of(masks: bool) -> dict[str, str]:
    """pycocotools' name of each kind of AP that a detector with or without masks has."""
    return KINDS if masks else {"box": KINDS["box"]}


def metrics_of(masks: bool) -> tuple[str, ...]:
    """The metrics of a detector with or without masks, were there objects of each size."""
    return tuple(f"{kind}_{name}" for kind in kinds_of(masks) for name in STATISTICS)


def in_coco_format(truth: COCO, decided: Decisions, kind: str) -> list[dict[str, Any]]:
    """Detections in COCO's results format: an entry has a box or a mask, from which sizes follow.

    Args:
        truth: the ground truth, which has the size of each image.
        decided: of the kind ``detections``.
        kind: ``bbox`` or ``segm``.
    """
    columns = decided.table.to_pydict()
    if kind == "bbox":
        regions = [{"bbox": box} for box in columns["box"]]
    else:
        sizes = {number: [image["height"], image["width"]] for number, image in truth.imgs.items()}
        regions = [
            {"segmentation": {"size": sizes[image], "counts": counts}}
            for image, counts in zip(columns["image_id"], columns["mask"], strict=True)
        ]
    named = zip(columns["image_id"], columns["category"], columns["score"], regions, strict=True)
    return [
        {"image_id": image, "category_id": category, "score": score, **region}
        for image, category, score, region in named
    ]


def average_precision(truth: COCO, detections: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """COCO's AP, AP50, AP75, APs, APm and APl in percent.

    Args:
        truth: the ground truth, indexed.
        detections: in COCO's results format.
        kind: ``bbox`` or ``segm``.

    Returns:
        The numbers by name, without those of sizes that have no ground truth.
    """
    numbers = twelve_numbers(evaluate(truth, detections, kind))
    # pycocotools says -1 where there was nothing to find.
    return {name: 100 * numbers[name] for name in STATISTICS if numbers[name] >= 0}


def evaluate(truth: COCO, detections: list[dict[str, Any]], kind: str) -> COCOeval:
    """Match detections with the ground truth; arguments as in ``average_precision``.

    Detections of masks must not carry boxes: sizes would follow from these.
    """
    evaluation = _matched(truth, detections, kind)
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _matched(
    truth: COCO, detections: list[dict[str, Any]], kind: str, sizes: bool = True
) -> COCOeval:
    """Detections matched with the ground truth, by sizes of objects too."""
    truth = numbered(truth)
    if detections:
        found = truth.loadRes(detections)
    else:
        # loadRes fails on an empty list; an index without annotations is what it should give.
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": []}
        found.createIndex()
    evaluation = COCOeval(truth, found, kind)
    if not sizes:
        # The first range of areas is that of all.
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
    evaluation.evaluate()
    return evaluation


def numbered(truth: COCO) -> COCO:
    """The ground truth with annotations numbered from 1, itself where ids are good.

    pycocotools takes the id 0 for "not matched", and of two annotations with one id forgets the
    first.
    """
    boxes = truth.dataset["annotations"]
    ids = {box.get("id") for box in boxes}
    if len(ids) == len(boxes) and all(type(number) is int and number > 0 for number in ids):
        return truth
    anew = COCO()
    anew.dataset = {
        **truth.dataset,
        "annotations": [{**box, "id": number} for number, box in enumerate(boxes, start=1)],
    }
    anew.createIndex()
    return anew


def twelve_numbers(evaluation: COCOeval) -> dict[str, float]:
    """COCO's summary by the names of ``NUMBERS``, as shares; -1 without any ground truth."""
    return dict(zip(NUMBERS, map(float, evaluation.stats), strict=True))


def by_category(evaluation: COCOeval) -> dict[int, dict[str, float]]:
    """AP, AP50 and AR100 of each category as shares, by its id; -1 without ground truth."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    return {
        category: {
            "AP": _mean(precision[:, :, index, 0, -1]),
            "AP50": _mean(precision[0, :, index, 0, -1]),
            "AR100": _mean(recall[:, index, 0, -1]),
        }
        for index, category in enumerate(evaluation.params.catIds)
    }


def by_threshold(evaluation: COCOeval) -> dict[float, float]:
    """AP as a share at each threshold of intersection over union."""
    precision = evaluation.eval["precision"]
    return {
        round(float(threshold), 2): _mean(precision[index, :, :, 0, -1])
        for index, threshold in enumerate(evaluation.params.iouThrs)
    }


def _mean(values: Any) -> float:
    """Mean over the cells that have ground truth; the others hold -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def resampled(
    truth: COCO, decided: Decisions, kind: str, weights: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """AP in percent on resamples of the images.

    Images are matched once. In a resample an image counts as often as it was drawn, as though the
    set held that number of copies; a category without an object there does not count.

    Args:
        truth: the ground truth.
        decided: of the kind ``detections``.
        kind: ``bbox`` or ``segm``.
        weights: (B, I), how often each image is drawn, in the order of ids.

    Returns:
        (B,); 0 where no object was drawn.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _matched(truth, in_coco_format(truth, decided, kind), kind, sizes=False)
    images, thresholds = len(evaluation.params.imgIds), evaluation.params.recThrs
    sums, counts = np.zeros(len(weights)), np.zeros(len(weights))
    for start in range(0, len(evaluation.evalImgs), images):
        found = evaluation.evalImgs[start : start + images]
        objects = np.array([0 if e is None else (e["gtIgnore"] == 0).sum() for e in found])
        there = weights @ objects
        known = there > 0
        sums[known] += _precision(found, weights[known], there[known], thresholds)
        counts += known
    ap: npt.NDArray[np.float32] = (100 * sums / np.maximum(counts, 1)).astype(np.float32)
    return ap


def _precision(
    found: Sequence[dict[str, Any] | None],
    weights: npt.NDArray[np.int32],
    objects: npt.NDArray[np.int64],
    thresholds: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Mean precision of a category over thresholds of overlap and of recall, by resample: (B,).

    Precision is at its highest right after a detection that is right, so no others are looked at.

    Args:
        found: what pycocotools found in each image.
        weights: (B, I).
        objects: (B,) in each resample, at least one.
        thresholds: of recall.
    """
    each = [(index, e) for index, e in enumerate(found) if e is not None and e["dtScores"]]
    if not each:
        return np.zeros(len(weights))
    scores = np.concatenate([e["dtScores"] for _, e in each])
    order = np.argsort(-scores, kind="mergesort")
    owner = np.concatenate([np.full(len(e["dtScores"]), index) for index, e in each])[order]
    matched = np.concatenate([e["dtMatches"] for _, e in each], axis=1)[:, order] > 0
    counted = ~np.concatenate([e["dtIgnore"] for _, e in each], axis=1)[:, order].astype(bool)
    means = np.zeros((len(weights), len(matched)))
    chunk = max(1, _CELLS // len(order))
    for first in range(0, len(weights), chunk):
        drawn = weights[first : first + chunk, owner]
        for level, (match, count) in enumerate(zip(matched, counted, strict=True)):
            (right,) = (match & count).nonzero()
            if not len(right):
                continue
            # Detections from one that is right to the next are added up at once.
            starts = np.concatenate([[0], right[:-1] + 1])
            kept = drawn[:, : right[-1] + 1] * count[: right[-1] + 1]
            total = np.add.reduceat(kept, starts, axis=1).cumsum(axis=1)
            hits = drawn[:, right].cumsum(axis=1)
            precision = hits / (total + np.spacing(1))
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = hits / objects[first : first + chunk, None]
            for row in range(len(drawn)):
                indices = np.searchsorted(recall[row], thresholds)
                reached = indices[indices < len(right)]
                means[first + row, level] = best[row, reached].sum() / len(thresholds)
    mean: npt.NDArray[np.float64] = means.mean(axis=1)
    return mean
