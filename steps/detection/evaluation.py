"""COCO average precision of boxes and masks, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from steps.command import UserError

STATISTICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""The first six numbers of COCO's summary, at most 100 detections an image."""
NUMBERS = (*STATISTICS, "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""All twelve: then average recall at 1, 10 and 100 detections an image, and at 100 by size."""
KINDS = {"box": "bbox", "mask": "segm"}


def kinds_of(masks: bool) -> dict[str, str]:
    """pycocotools' name of each kind of AP that a detector with or without masks has."""
    return KINDS if masks else {"box": KINDS["box"]}


def metrics_of(masks: bool) -> tuple[str, ...]:
    """The metrics of a detector with or without masks, were there objects of each size."""
    return tuple(f"{kind}_{name}" for kind in kinds_of(masks) for name in STATISTICS)


class CocoAP(BaseMetric):  # type: ignore[misc]
    """Box AP on a split, and mask AP where there are masks, in percent.

    Args:
        annotations: COCO instances file of the split.
        masks: whether the detector finds them.
    """

    default_prefix = None

    def __init__(self, annotations: Path, masks: bool = True) -> None:
        super().__init__()
        self.annotations, self.masks = annotations, masks

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the detections of a batch, masks run-length encoded.

        Raises:
            UserError: a box or score is not finite.
        """
        for sample in data_samples:
            found = sample["pred_instances"]
            result = {
                "image_id": sample["img_id"],
                "boxes": found["bboxes"].cpu().double().numpy(),
                "scores": found["scores"].cpu().double().numpy(),
                "labels": found["labels"].cpu().numpy(),
            }
            if not (np.isfinite(result["boxes"]).all() and np.isfinite(result["scores"]).all()):
                raise UserError(
                    f"detections in image {sample['img_id']}",
                    "a box or score that is not finite",
                    remedy="lower optimizer.lr in the protocol: its training has diverged",
                )
            if self.masks:
                masks = found["masks"].cpu().numpy().astype(np.uint8).transpose(1, 2, 0)
                result["masks"] = rle.encode(np.asfortranarray(masks))
            self.results.append(result)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """``box_AP`` to ``box_APl`` and, with masks, ``mask_AP`` to ``mask_APl``; a size without
        ground truth has no entry."""
        # pycocotools prints its progress, which is of no use to anybody.
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(self.annotations))
            categories = [category["id"] for category in truth.dataset["categories"]]
            metrics: dict[str, float] = {}
            for name, kind in kinds_of(self.masks).items():
                found = _detections(results, kind, categories)
                metrics |= {
                    f"{name}_{statistic}": value
                    for statistic, value in average_precision(truth, found, kind).items()
                }
        return metrics


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
    truth = numbered(truth)
    if detections:
        found = truth.loadRes(detections)
    else:
        # loadRes fails on an empty list; an index without annotations is what it should give.
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": []}
        found.createIndex()
    evaluation = COCOeval(truth, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
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
    """Of the cells that have ground truth; the others hold -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _detections(
    results: Sequence[dict[str, Any]], kind: str, categories: Sequence[int]
) -> list[dict[str, Any]]:
    """COCO's results format. Areas follow from the box or the mask, so an entry has only one."""
    found = []
    for result in results:
        if kind == "bbox":
            places = [
                {"bbox": [left, top, right - left, bottom - top]}
                for left, top, right, bottom in result["boxes"].tolist()
            ]
        else:
            places = [{"segmentation": mask} for mask in result["masks"]]
        for place, score, label in zip(places, result["scores"], result["labels"], strict=True):
            found.append(
                {
                    "image_id": result["image_id"],
                    "category_id": categories[int(label)],
                    "score": float(score),
                    **place,
                }
            )
    return found
