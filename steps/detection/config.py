"""mmengine's configuration of a detector on a pretrained backbone, generated from our params.

ViTDet's, as mmdet and Detectron2 have it: Mask R-CNN (arXiv:1703.06870) with two convolutions in
the proposal network, four in the box head and a LayerNorm after each convolution of the heads
(arXiv:2203.16527, A.2). ``steps.detection.heads`` has the heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, cast

from mmengine.dataset import DefaultSampler, pseudo_collate
from torch import nn

from steps.data.loader import STALL_SECONDS
from steps.detection.backbone import ResNetMaps, ViTDet
from steps.detection.dataset import Detections
from steps.detection.evaluation import CocoAP
from steps.detection.heads import (
    NORMS,
    Config,
    box_coder,
    inference,
    l1,
    matching,
    roi_head,
    stages,
)
from steps.detection.pyramid import BlockPyramid, SimplePyramid, pyramid_scales
from steps.params.base import Params
from steps.params.detection import (
    CosineDecay,
    Detection,
    DetectionOptimizer,
    Proposals,
)


def detector(
    params: Detection,
    backbone: ViTDet | ResNetMaps,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    classes: int,
    masks: bool,
) -> Config:
    """The model: preprocessor, backbone, pyramid, proposal network, box head and mask head.

    Args:
        backbone: the pretrained backbone.
        mean, std: per channel, of pixels in 0 to 1.
        classes: how many the dataset has.
        masks: whether there is a mask head.
    """
    plain = "MaskRCNN" if masks else "FasterRCNN"
    neck, strides = _pyramid(params, backbone)
    return {
        "type": plain if params.heads.cascade is None else "CascadeRCNN",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [255 * value for value in mean],
            "std": [255 * value for value in std],
            "pad_mask": True,
            "pad_size_divisor": padding(params, backbone),
        },
        "backbone": {"type": handed_over(backbone)},
        "neck": neck,
        "rpn_head": _rpn_head(params, strides),
        "roi_head": roi_head(params, strides, classes, masks),
        "train_cfg": {
            "rpn": matching(
                params.proposals.positive_iou,
                params.proposals.negative_iou,
                params.proposals.samples,
                params.proposals.positive_share,
                with_truth=False,
            ),
            "rpn_proposal": _proposals(
                params.proposals,
                params.proposals.train_before_nms,
                params.proposals.train_after_nms,
            ),
            "rcnn": stages(params.heads),
        },
        "test_cfg": {
            "rpn": _proposals(
                params.proposals, params.proposals.test_before_nms, params.proposals.test_after_nms
            ),
            "rcnn": inference(params.inference),
        },
    }


def handed_over(module: nn.Module) -> FunctionType:
    """Builder for mmdet that returns a module which is already loaded."""

    def loaded() -> nn.Module:
        return module

    loaded.__module__, loaded.__qualname__ = type(module).__module__, type(module).__qualname__
    return cast(FunctionType, loaded)


def padding(params: Detection, backbone: ViTDet | ResNetMaps) -> int:
    """A multiple of what height and width of a batch are padded to."""
    if params.short_side is None:
        # No image is larger, so all are padded to this square.
        return params.image_size
    coarsest = params.pyramid.strides[-2]
    return coarsest if isinstance(backbone, ResNetMaps) else math.lcm(coarsest, backbone.patch_size)


def _pyramid(params: Detection, backbone: ViTDet | ResNetMaps) -> tuple[Config, list[float]]:
    """The neck that a backbone's maps need, and the strides of its levels."""
    pyramid = params.pyramid
    channels, strides = pyramid.channels, pyramid.strides
    fpn: Config = {"type": "FPN", "out_channels": channels, "num_outs": len(strides)}
    if isinstance(backbone, ResNetMaps):
        neck = {**fpn, "in_channels": backbone.channels}
        return neck, [float(stride) for stride in strides]
    scales = pyramid_scales(backbone.patch_size, strides)
    if pyramid.kind == "simple":
        neck = {
            "type": SimplePyramid,
            "embed_dim": backbone.embed_dim,
            "scales": scales,
            "channels": channels,
        }
    else:
        maps = [backbone.embed_dim] * (len(strides) - 1)
        neck = {
            "type": BlockPyramid,
            "embed_dim": backbone.embed_dim,
            "scales": scales[:-1],
            "norm": pyramid.upsampling_norm,
            "fpn": {**fpn, "in_channels": maps, "norm_cfg": NORMS[pyramid.norm]},
        }
    return neck, [backbone.patch_size / scale for scale in scales]


def _rpn_head(params: Detection, strides: Sequence[float]) -> Config:
    return {
        "type": "RPNHead",
        "in_channels": params.pyramid.channels,
        "feat_channels": params.pyramid.channels,
        "num_convs": params.proposals.convs,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [params.proposals.anchor_scale],
            "ratios": params.proposals.anchor_ratios,
            "strides": list(strides),
        },
        "bbox_coder": box_coder(1.0, 1.0),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": l1(params.proposals.box_loss_beta),
    }


def _proposals(proposals: Proposals, before: int, after: int) -> Config:
    return {
        "nms_pre": before,
        "max_per_img": after,
        "nms": {"type": "nms", "iou_threshold": proposals.nms_iou},
        "min_bbox_size": 0,
    }


def dataloaders(
    params: Detection, data: Path, seed: int, processes: int, masks: bool
) -> tuple[Config, Config]:
    """The loaders of training and of evaluation, for one of several processes."""
    train = {
        "batch_size": params.batch_size // processes,
        "num_workers": params.workers,
        "timeout": STALL_SECONDS if params.workers else 0,
        "collate_fn": pseudo_collate,
        "sampler": {"type": DefaultSampler, "shuffle": True},
        "dataset": {
            "type": Detections,
            "folder": data,
            "split": "train",
            "image_size": params.image_size,
            "short_side": params.short_side,
            "seed": seed,
            "augmentation": params.augmentation,
            "keep_empty": params.keep_empty,
            "min_image_size": params.min_image_size,
            "masks": masks,
        },
    }
    val = {
        "batch_size": params.eval_batch_size,
        "num_workers": params.workers,
        "timeout": STALL_SECONDS if params.workers else 0,
        "collate_fn": pseudo_collate,
        "sampler": {"type": DefaultSampler, "shuffle": False},
        "dataset": {
            "type": Detections,
            "folder": data,
            "split": "val",
            "image_size": params.image_size,
            "short_side": params.short_side,
            "masks": masks,
        },
    }
    return train, val


def evaluator(data: Path, masks: bool) -> Config:
    """Evaluator of a detector on the val split."""
    return {"type": CocoAP, "annotations": data / "val.json", "masks": masks}


def schedulers(optimizer: DetectionOptimizer, iterations: int) -> list[Config]:
    """Linear warm-up, then steps or a cosine, updated at every iteration.

    Args:
        iterations: of the whole run.
    """
    warmup = min(optimizer.warmup_iterations, iterations)
    every: list[Config] = []
    if warmup:
        every.append(
            {
                "type": "LinearLR",
                "start_factor": optimizer.warmup_factor,
                "by_epoch": False,
                "begin": 0,
                "end": warmup,
            }
        )
    decay = optimizer.decay
    if isinstance(decay, CosineDecay):
        if warmup < iterations:
            every.append(
                {
                    "type": "CosineAnnealingLR",
                    "eta_min_ratio": decay.final_share,
                    "by_epoch": False,
                    "begin": warmup,
                    "end": iterations,
                }
            )
    else:
        every.append(
            {
                "type": "MultiStepLR",
                "milestones": [round(share * iterations) for share in decay.milestones],
                "gamma": decay.gamma,
                "by_epoch": False,
            }
        )
    return every


def described(value: Any) -> Any:
    """A configuration as JSON: classes by name, a module that was handed over by its class."""
    match value:
        case dict():
            return {key: described(item) for key, item in value.items()}
        case list() | tuple():
            return [described(item) for item in value]
        case Params():
            return value.resolved()
        case type() | FunctionType():
            return f"{value.__module__}.{value.__qualname__}"
        case Path():
            return value.name
    return value
