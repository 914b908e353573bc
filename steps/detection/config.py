"""mmengine's configuration of Mask R-CNN on a pretrained backbone, generated from our params.

The detector is that of mmdet's and Detectron2's ViTDet: Mask R-CNN (arXiv:1703.06870) with two
convolutions in the proposal network, four in the box head and a LayerNorm after each convolution
of the heads (arXiv:2203.16527, A.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dataset import DefaultSampler, pseudo_collate

from steps.detection.backbone import ViTDet
from steps.detection.dataset import Detections
from steps.detection.evaluation import CocoAP
from steps.detection.pyramid import ChannelNorm, SimplePyramid, pyramid_scales
from steps.detection.resnet import ResNetMaps
from steps.params.detection import (
    CosineDecay,
    Detection,
    DetectionOptimizer,
    Heads,
    Inference,
    Proposals,
)

Config = dict[str, Any]
NORM: Config = {"type": ChannelNorm, "eps": 1e-6}


def detector(
    params: Detection,
    backbone: ViTDet | ResNetMaps,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    classes: int,
) -> Config:
    """The model: preprocessor, backbone, pyramid, proposal network, box and mask head.

    Args:
        backbone: the pretrained backbone.
        mean, std: per channel, of pixels in 0 to 1.
        classes: how many the dataset has.
    """
    neck, strides = _pyramid(params, backbone)
    return {
        "type": "MaskRCNN",
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": [255 * value for value in mean],
            "std": [255 * value for value in std],
            "pad_mask": True,
            # No image is larger, so all are padded to this square.
            "pad_size_divisor": params.image_size,
        },
        # mmdet calls what it builds from; this hands it the module that is loaded already.
        "backbone": {"type": lambda: backbone},
        "neck": neck,
        "rpn_head": _rpn_head(params, strides),
        "roi_head": _roi_head(params, strides, classes),
        "train_cfg": {
            "rpn": _matching(
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
            "rcnn": {
                **_matching(
                    params.heads.positive_iou,
                    params.heads.positive_iou,
                    params.heads.samples,
                    params.heads.positive_share,
                    with_truth=True,
                ),
                "mask_size": 2 * params.heads.mask_roi,
            },
        },
        "test_cfg": {
            "rpn": _proposals(
                params.proposals, params.proposals.test_before_nms, params.proposals.test_after_nms
            ),
            "rcnn": _inference(params.inference),
        },
    }


def _pyramid(params: Detection, backbone: ViTDet | ResNetMaps) -> tuple[Config, list[float]]:
    """The neck that a backbone's maps need, and the strides of its levels."""
    channels, strides = params.pyramid.channels, params.pyramid.strides
    if isinstance(backbone, ResNetMaps):
        neck = {
            "type": "FPN",
            "in_channels": backbone.channels,
            "out_channels": channels,
            "num_outs": len(strides),
        }
        return neck, [float(stride) for stride in strides]
    scales = pyramid_scales(backbone.patch_size, strides)
    neck = {
        "type": SimplePyramid,
        "embed_dim": backbone.embed_dim,
        "scales": scales,
        "channels": channels,
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
        "bbox_coder": _box_coder([1.0, 1.0, 1.0, 1.0]),
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    }


def _roi_head(params: Detection, strides: Sequence[float], classes: int) -> Config:
    heads = params.heads
    return {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": _roi_align(heads, heads.box_roi, params.pyramid.channels, strides),
        "bbox_head": {
            "type": "ConvFCBBoxHead",
            "num_shared_convs": heads.box_convs,
            "num_shared_fcs": 1,
            "in_channels": params.pyramid.channels,
            "conv_out_channels": heads.box_channels,
            "fc_out_channels": heads.box_fc,
            "roi_feat_size": heads.box_roi,
            "num_classes": classes,
            "norm_cfg": NORM,
            "bbox_coder": _box_coder([0.1, 0.1, 0.2, 0.2]),
            "reg_class_agnostic": False,
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "mask_roi_extractor": _roi_align(heads, heads.mask_roi, params.pyramid.channels, strides),
        "mask_head": {
            "type": "FCNMaskHead",
            "num_convs": heads.mask_convs,
            "in_channels": params.pyramid.channels,
            "conv_out_channels": heads.mask_channels,
            "num_classes": classes,
            "norm_cfg": NORM,
            "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
        },
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


def _box_coder(stds: list[float]) -> Config:
    return {
        "type": "DeltaXYWHBBoxCoder",
        "target_means": [0.0, 0.0, 0.0, 0.0],
        "target_stds": stds,
    }


def _matching(
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


def _proposals(proposals: Proposals, before: int, after: int) -> Config:
    return {
        "nms_pre": before,
        "max_per_img": after,
        "nms": {"type": "nms", "iou_threshold": proposals.nms_iou},
        "min_bbox_size": 0,
    }


def _inference(inference: Inference) -> Config:
    return {
        "score_thr": inference.score_threshold,
        "nms": {"type": "nms", "iou_threshold": inference.nms_iou},
        "max_per_img": inference.max_per_image,
        "mask_thr_binary": inference.mask_threshold,
    }


def dataloaders(params: Detection, data: Path, seed: int, processes: int) -> tuple[Config, Config]:
    """The loaders of training and of evaluation, for one of so many processes."""
    train = {
        "batch_size": params.batch_size // processes,
        "num_workers": params.workers,
        "collate_fn": pseudo_collate,
        "sampler": {"type": DefaultSampler, "shuffle": True},
        "dataset": {
            "type": Detections,
            "folder": data,
            "split": "train",
            "image_size": params.image_size,
            "seed": seed,
            "augmentation": params.augmentation,
            "keep_empty": params.keep_empty,
            "min_image_size": params.min_image_size,
        },
    }
    val = {
        "batch_size": params.eval_batch_size,
        "num_workers": params.workers,
        "collate_fn": pseudo_collate,
        "sampler": {"type": DefaultSampler, "shuffle": False},
        "dataset": {
            "type": Detections,
            "folder": data,
            "split": "val",
            "image_size": params.image_size,
        },
    }
    return train, val


def evaluator(data: Path) -> Config:
    """What measures a detector on the val split."""
    return {"type": CocoAP, "annotations": data / "val.json"}


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
