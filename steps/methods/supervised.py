"""Supervised training of a vision transformer (DeiT, arXiv:2012.12877) or a ResNet; fine-tuning.

    loss = -sum_c y_c log softmax(z)_c

where y mixes two smoothed one-hot labels with the mixing weight of the batch (mixup,
arXiv:1710.09412; cutmix, arXiv:1905.04899). The same module trains from scratch (pooling "cls",
DeiT's recipe) and fine-tunes a pretrained backbone (pooling "mean" with a norm of its own, as in
MAE, arXiv:2111.06377, appendix A.1). Where an image has several labels, the loss is the mean over
labels of the binary cross entropy of a sigmoid; for numbers it is the squared error, with the
numbers standardised.

Published: ViT-B from scratch, 300 epochs of ImageNet-1K at batch 1024: 81.8 %.
"""

from __future__ import annotations

import copy
import math
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.schedules import Progress
from steps.methods.method import Batch, Draws, Losses, Method, MethodContext
from steps.models import drop_path
from steps.models.backbones import BackboneModel, Transformer, image_size, is_resnet
from steps.models.features import global_feature, mean_feature
from steps.params.methods.baselines import SupervisedParams

_ERASE_AREA = (0.02, 1 / 3)
_ERASE_ASPECT = math.log(1 / 0.3)
"""Bound of the logarithm of the aspect ratio."""


class Supervised(Method):
    """A backbone and a linear classifier, trained on labels."""

    def __init__(
        self, params: SupervisedParams, backbone: BackboneModel, context: MethodContext
    ) -> None:
        super().__init__()
        num_classes = 1 if context.target == "number" else context.num_classes
        if context.target == "class" and num_classes < 2:
            raise ValueError(f"supervised training needs two classes or more, not {num_classes}")
        self.params = params
        self.paired = bool(params.mixup or params.cutmix)
        self.num_classes = num_classes
        self.target, self.numbers = context.target, context.numbers
        self.side = context.sides[0] if context.sides else image_size(backbone)
        """Side of the images, in pixels."""
        self.backbone = backbone
        drop_path.install(backbone, params.drop_path)
        self.norm: nn.Module = nn.Identity()
        if not is_resnet(backbone):
            if params.pooling == "mean":
                self.norm = _norm_of_mean(backbone)
                # The norm over tokens gives way to the norm over their mean.
                backbone.norm.requires_grad_(False)
            # Not part of this forward pass: DDP expects a gradient of all that trains.
            if backbone.cls_token is not None or params.pooling == "mean":
                backbone.fc_norm.requires_grad_(False)
                if getattr(backbone, "attn_pool", None) is not None:
                    backbone.attn_pool.requires_grad_(False)
        self.head = nn.Linear(backbone.num_features, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=params.head_init_std)
        nn.init.zeros_(self.head.bias)

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """Mixing partners, weights and boxes, boxes to erase, and drop path.

        Every choice is given for each sample, though mixup and cutmix choose once a batch, so
        that a part of the batch carries its own. Partners are neighbours (0 with 1, 2 with 3,
        …) of the global batch, however it is cut over devices.
        """
        # NumPy's: torch draws Beta variates from its global generator only.
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        draws: Draws = {}
        if self.params.drop_path:
            draws["keep"] = drop_path.sample(self.backbone, batch, generator)
        if self.params.mixup or self.params.cutmix:
            draws.update(self._sample_mix(batch, rng))
        if self.params.random_erasing:
            boxes = [self._sample_erasing(rng) for _ in range(batch)]
            draws["erase"] = torch.tensor(boxes)
            draws["erase_seed"] = torch.from_numpy(rng.integers(2**62, size=batch))
        return draws

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        (images,) = batch.views
        if "erase" in draws:
            images = erase(images, draws["erase"], draws["erase_seed"])
        targets = self.targets(batch.labels)
        if "mix" in draws:
            images, targets = mix(images, targets, draws["mix"], draws["partner"], draws["mix_box"])
        keep = draws.get("keep")
        # Partners from other parts of the batch were only needed for mixing.
        if (own := draws.get("own")) is not None:
            images, targets = images[own], targets[own]
            keep = None if keep is None else keep[own]
        if self.target != "class":
            loss = F.mse_loss if self.target == "number" else F.binary_cross_entropy_with_logits
            return {"loss": loss(self.logits(images, keep).float(), targets)}
        log_p = F.log_softmax(self.logits(images, keep).float(), dim=-1)
        return {"loss": -(targets * log_p).sum(dim=-1).mean()}

    def logits(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) to class logits (B, C)."""
        if self.params.pooling == "cls":
            pooled = global_feature(self.backbone, images, keep)
        else:
            pooled = self.norm(mean_feature(self.backbone, images, keep))
        return cast(Tensor, self.head(pooled))

    def targets(self, labels: Tensor) -> Tensor:
        """Smoothed one-hot labels (B, C): smoothing is spread over all classes, or over the two
        values of each of several labels. Numbers (B, 1) are standardised."""
        if self.target == "number":
            mean, std = self.numbers
            return ((labels - mean) / std).unsqueeze(1)
        if self.target == "classes":
            return labels * (1 - self.params.label_smoothing) + self.params.label_smoothing / 2
        off = self.params.label_smoothing / self.num_classes
        one_hot = F.one_hot(labels, self.num_classes).float()
        return one_hot * (1 - self.params.label_smoothing) + off

    def chance(self, batch: int) -> dict[str, float]:
        """log C: the cross entropy of any target and C equal probabilities."""
        return {"loss": math.log(self.num_classes)}

    def export_backbone(self) -> BackboneModel:
        """The backbone without the classifier."""
        return self.backbone

    def _sample_mix(self, batch: int, rng: np.random.Generator) -> Draws:
        params, side = self.params, self.side
        weight, box = 1.0, (0, 0, 0, 0)
        if rng.random() < params.mix_probability:
            cut = params.cutmix > 0 and (
                params.mixup == 0 or rng.random() < params.switch_probability
            )
            alpha = params.cutmix if cut else params.mixup
            weight = float(rng.beta(alpha, alpha))
            if cut:
                # A side of the box is even, twice this half, as timm cuts it.
                half = int(side * math.sqrt(1 - weight)) // 2
                y, x = rng.integers(side, size=2)
                top, left = max(y - half, 0), max(x - half, 0)
                bottom, right = min(y + half, side), min(x + half, side)
                box = (int(top), int(left), int(bottom), int(right))
                # The weight follows the box as clipped by the image's edge.
                weight = share_outside(box, side)
        neighbour = torch.arange(batch) ^ 1
        # An odd batch's last sample mixes with itself.
        neighbour[neighbour == batch] = batch - 1
        return {
            "mix": torch.full((batch,), weight),
            "mix_box": torch.tensor([box] * batch),
            "partner": neighbour - torch.arange(batch),
        }

    def _sample_erasing(self, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """A box to erase, empty for most samples (arXiv:1708.04896, algorithm 1)."""
        if rng.random() >= self.params.random_erasing:
            return (0, 0, 0, 0)
        for _ in range(10):
            area = rng.uniform(*_ERASE_AREA) * self.side**2
            aspect = math.exp(rng.uniform(-_ERASE_ASPECT, _ERASE_ASPECT))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height < self.side and width < self.side:
                top = int(rng.integers(self.side - height + 1))
                left = int(rng.integers(self.side - width + 1))
                return (top, left, top + height, left + width)
        return (0, 0, 0, 0)


def _norm_of_mean(backbone: Transformer) -> nn.Module:
    """A new norm, or a copy of the one that an earlier fine-tuning left in the backbone."""
    if isinstance(backbone.fc_norm, nn.Identity):
        return nn.LayerNorm(backbone.embed_dim, eps=backbone.norm.eps)
    norm: nn.Module = copy.deepcopy(backbone.fc_norm)
    return norm


def erase(images: Tensor, boxes: Tensor, seeds: Tensor) -> Tensor:
    """Fill each sample's box with normal noise.

    Args:
        images: (B, C, H, W), normalised.
        boxes: (B, 4) top, left, bottom, right; empty boxes change nothing.
        seeds: (B,) of each sample's noise.
    """
    images = images.clone()
    for index, (top, left, bottom, right) in enumerate(boxes.tolist()):
        if bottom > top:
            generator = torch.Generator().manual_seed(int(seeds[index]))
            noise = torch.randn(images.shape[1], bottom - top, right - left, generator=generator)
            images[index, :, top:bottom, left:right] = noise.to(images)
    return images


def share_outside(box: tuple[int, int, int, int], side: int) -> float:
    """Share of a square image that a box (top, left, bottom, right) leaves."""
    top, left, bottom, right = box
    return 1 - (bottom - top) * (right - left) / side**2


def mix(
    images: Tensor, targets: Tensor, weights: Tensor, partners: Tensor, boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """Mixup where a sample's box is empty, cutmix where it is not.

    Args:
        images: (B, 3, H, W).
        targets: (B, C).
        weights: (B,) the share of the sample itself.
        partners: (B,) the partner's index in the batch less the sample's own.
        boxes: (B, 4) top, left, bottom, right of the partner's patch.
    """
    batch, _, height, width = images.shape
    other = torch.arange(batch, device=images.device) + partners
    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, -1)
    top, left, bottom, right = boxes.view(batch, 4, 1, 1).unbind(dim=1)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    cut = ((bottom - top) * (right - left) > 0).view(-1, 1, 1, 1)
    share = weights.view(-1, 1, 1, 1)
    blended = images * share + images[other] * (1 - share)
    pasted = torch.where(inside.unsqueeze(1), images[other], images)
    mixed = targets * weights.view(-1, 1) + targets[other] * (1 - weights.view(-1, 1))
    return torch.where(cut, pasted, blended), mixed
