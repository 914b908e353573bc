"""The heads of a Cascade Mask R-CNN (arXiv:1712.00726), as two frameworks have them.

mmdet has a mask head for each stage. Detectron2, whose results ViTDet's are (arXiv:2203.16527), has
one, trained on the first stage's proposals and used on the last one's boxes; and it divides the
gradient that the pyramid gets from each box head by their number.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.utils import empty_instances
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor, nn


class CascadeHeads(CascadeRoIHead):  # type: ignore[misc]
    """mmdet's cascade with what Detectron2's has besides.

    Args:
        shared_gradient: divide the gradient of the features by the number of stages.
        masks: first: one mask head, of the first stage; each: one a stage; where there is any.
        arguments: mmdet's own.
    """

    def __init__(
        self, *, shared_gradient: bool, masks: Literal["first", "each"], **arguments: Any
    ) -> None:
        self.mask_head: nn.ModuleList
        self.one_mask_head = masks == "first"
        super().__init__(**arguments)
        self.share = 1 / self.num_stages if shared_gradient else 1.0
        if self.one_mask_head and self.with_mask:
            self.mask_head = self.mask_head[:1]

    def _bbox_forward(self, stage: int, x: tuple[Tensor, ...], rois: Tensor) -> dict[str, Any]:
        return super()._bbox_forward(  # type: ignore[no-any-return]
            stage, tuple(scale_gradient(level, self.share) for level in x), rois
        )

    def mask_loss(self, stage: int, *arguments: Any) -> dict[str, Any]:
        """Of the stages that have a mask head."""
        if stage and self.one_mask_head:
            return {"loss_mask": {}}
        return super().mask_loss(stage, *arguments)  # type: ignore[no-any-return]

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict[str, Any]],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Add ``masks`` (N, H, W) to the detections of each image."""
        if not self.one_mask_head:
            return super().predict_mask(  # type: ignore[no-any-return]
                x, batch_img_metas, results_list, rescale
            )
        rois = bbox2roi([found.bboxes for found in results_list])
        if not len(rois):
            return empty_instances(  # type: ignore[no-any-return]
                batch_img_metas,
                rois.device,
                task_type="mask",
                instance_results=results_list,
                mask_thr_binary=self.test_cfg.mask_thr_binary,
            )
        masks = self._mask_forward(0, x, rois)["mask_preds"]
        return self.mask_head[0].predict_by_feat(  # type: ignore[no-any-return, operator]
            masks.split([len(found) for found in results_list]),
            results_list,
            batch_img_metas,
            self.test_cfg,
            rescale=rescale,
        )


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """``values`` as they are, ``factor`` times their gradient."""
    if factor == 1.0:
        return values
    scaled: Tensor = _Scaled.apply(values, factor)
    return scaled
