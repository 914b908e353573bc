"""mmengine's configuration of a detector's box and mask heads, of one stage or of a cascade."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.utils import empty_instances
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor, nn

from steps.detection.pyramid import ChannelNorm
from steps.params.detection import Detection, Heads, Inference

Config = dict[str, Any]

NORMS: dict[str, Config | None] = {
    "layer": {"type": ChannelNorm, "eps": 1e-6},
    "batch": {"type": "BN"},
    "none": None,
}
"""mmcv's config for each name of a norm."""


def roi_head(params: Detection, strides: Sequence[float], classes: int, masks: bool) -> Config:
    """The heads on RoI-aligned features.

    Args:
        strides: of the pyramid's levels; the last one only gives proposals.
        classes: how many the dataset has.
        masks: whether there is a mask head.
    """
    heads, channels = params.heads, params.pyramid.channels
    parts = {"bbox_roi_extractor": _roi_align(heads, heads.box_roi, channels, strides)}
    if masks:
        parts["mask_roi_extractor"] = _roi_align(heads, heads.mask_roi, channels, strides)
        parts["mask_head"] = _mask_head(heads, channels, classes)
    if heads.cascade is None:
        box_head = _box_head(heads, channels, classes, OFFSET_WEIGHT)
        return {"type": "StandardRoIHead", "bbox_head": box_head, **parts}
    return {
        "type": CascadeHeads,
        "num_stages": len(heads.cascade.positive_ious),
        "stage_loss_weights": heads.cascade.loss_weights,
        "shared_gradient": heads.cascade.shared_gradient,
        "masks": heads.cascade.masks,
        "bbox_head": [
            _box_head(heads, channels, classes, weight) for weight in heads.cascade.offset_weights
        ],
        **parts,
    }


OFFSET_WEIGHT = 10.0
"""Weight of Mask R-CNN's offsets of centres; sides have half of it (arXiv:1506.01497)."""


def _box_head(heads: Heads, channels: int, classes: int, weight: float) -> Config:
    loss = l1() if heads.box_loss == "l1" else {"type": "GIoULoss"}
    return {
        "type": "ConvFCBBoxHead",
        "num_shared_convs": heads.box_convs,
        "num_shared_fcs": 1,
        "in_channels": channels,
        "conv_out_channels": heads.box_channels,
        "fc_out_channels": heads.box_fc,
        "roi_feat_size": heads.box_roi,
        "num_classes": classes,
        "norm_cfg": NORMS[heads.box_norm],
        "bbox_coder": box_coder(1 / weight, 2 / weight),
        "reg_class_agnostic": heads.class_agnostic_boxes,
        # A loss of boxes takes them decoded, one of offsets takes offsets.
        "reg_decoded_bbox": heads.box_loss == "giou",
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": {**loss, "loss_weight": heads.box_loss_weight},
    }


def _mask_head(heads: Heads, channels: int, classes: int) -> Config:
    return {
        "type": "FCNMaskHead",
        "num_convs": heads.mask_convs,
        "in_channels": channels,
        "conv_out_channels": heads.mask_channels,
        "num_classes": classes,
        "norm_cfg": NORMS[heads.mask_norm],
        "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
    }


def _roi_align(heads: Heads, size: int, channels: int, strides: Sequence[float]) -> Config:
    return {
        "type": "SingleRoIExtractor",
        # torchvision's kernel computes the same, on a CPU in a fraction of the time.
        "roi_layer": {
            "type": "RoIAlign",
            "output_size": size,
            "sampling_ratio": 0,
            "use_torchvision": True,
        },
        "out_channels": channels,
        "featmap_strides": list(strides[:-1]),
        "finest_scale": heads.finest_scale,
    }


def l1(beta: float = 0.0) -> Config:
    """L1, or below an error of ``beta`` quadratic."""
    if beta:
        return {"type": "SmoothL1Loss", "beta": beta, "loss_weight": 1.0}
    return {"type": "L1Loss", "loss_weight": 1.0}


def box_coder(centre: float, side: float) -> Config:
    """Boxes as offsets from others, over a standard deviation of centres and one of sides."""
    return {
        "type": "DeltaXYWHBBoxCoder",
        "target_means": [0.0, 0.0, 0.0, 0.0],
        "target_stds": [centre, centre, side, side],
    }


def stages(heads: Heads) -> Config | list[Config]:
    """Training config of the heads; a list with one per stage for a cascade."""
    if heads.cascade is None:
        return _stage(heads, heads.positive_iou)
    found = [_stage(heads, iou) for iou in heads.cascade.positive_ious]
    if not heads.cascade.resample:
        for stage in found[1:]:
            stage["sampler"] = {"type": "PseudoSampler"}
    return found


def _stage(heads: Heads, iou: float) -> Config:
    return {
        **matching(iou, iou, heads.samples, heads.positive_share, with_truth=True),
        "mask_size": 2 * heads.mask_roi,
    }


def matching(
    positive_iou: float, negative_iou: float, samples: int, share: float, *, with_truth: bool
) -> Config:
    """Which boxes count as objects and which of them the loss is taken over."""
    return {
        "assigner": {
            "type": "MaxIoUAssigner",
            "pos_iou_thr": positive_iou,
            "neg_iou_thr": negative_iou,
            "min_pos_iou": negative_iou,
            # Each object is to have an anchor, however bad; a proposal has to be good.
            "match_low_quality": not with_truth,
            "ignore_iof_thr": -1,
        },
        "sampler": {
            "type": "RandomSampler",
            "num": samples,
            "pos_fraction": share,
            "neg_pos_ub": -1,
            "add_gt_as_proposals": with_truth,
        },
        "allowed_border": -1,
        "pos_weight": -1,
        "debug": False,
    }


def inference(params: Inference) -> Config:
    """From scores to detections."""
    return {
        "score_thr": params.score_threshold,
        "nms": {"type": "nms", "iou_threshold": params.nms_iou},
        "max_per_img": params.max_per_image,
        "mask_thr_binary": params.mask_threshold,
    }


# --- The heads of a Cascade Mask R-CNN (arXiv:1712.00726), as two frameworks have them
# mmdet has a mask head for each stage. Detectron2, whose results ViTDet's are (arXiv:2203.16527),
# has one, trained on the first stage's proposals and used on the last one's boxes; and it divides
# the gradient that the pyramid gets from each box head by their number.


class CascadeHeads(CascadeRoIHead):  # type: ignore[misc]
    """mmdet's cascade with the additions of Detectron2's.

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
        """Mask loss, only of stages that have a mask head."""
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
