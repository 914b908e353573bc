"""mmengine's metric: detections of a validation set, kept and measured by COCO's AP."""

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

from steps.artifacts.decisions import Decisions, of_detections
from steps.command import UserError
from steps.evaluation.precision import average_precision, in_coco_format, kinds_of


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
        self.decisions: Decisions | None = None
        """Detections of the last evaluation, from which its metrics follow; in the main process."""

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
            self.decisions = _decisions(results, categories, self.masks)
            metrics: dict[str, float] = {}
            for name, kind in kinds_of(self.masks).items():
                found = in_coco_format(truth, self.decisions, kind)
                metrics |= {
                    f"{name}_{statistic}": value
                    for statistic, value in average_precision(truth, found, kind).items()
                }
        return metrics


def _decisions(
    results: Sequence[dict[str, Any]], categories: Sequence[int], masks: bool
) -> Decisions:
    """The detections of all images, in their order."""
    corners = np.concatenate([np.empty((0, 4)), *(result["boxes"] for result in results)])
    return of_detections(
        [result["image_id"] for result in results for _ in result["scores"]],
        [categories[int(label)] for result in results for label in result["labels"]],
        [float(score) for result in results for score in result["scores"]],
        np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        [mask["counts"].decode() for result in results for mask in result["masks"]]
        if masks
        else None,
    )
