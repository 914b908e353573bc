"""Linear classifiers on a frozen backbone, any number trained together on one pass of it.

MAE's (arXiv:2111.06377, appendix A.2), DINO's (arXiv:2104.14294, section 4.1) and DINOv2's
(arXiv:2304.07193) differ in what a classifier reads, in the update rule and in the schedule. The
loss is the sum of the classifiers' cross entropies, so that none has an effect on another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer as TorchOptimizer

from steps.core.schedules import Progress, learning_rate
from steps.engine.optimizers import LARS
from steps.models.backbones import BackboneModel, Transformer, has_class_token, is_resnet
from steps.models.features import global_feature, image_feature, last_blocks
from steps.params.protocols import ProbePooling
from steps.params.recipe import Schedule

BATCH_NORM_EPS = 1e-6


@dataclass(frozen=True)
class FeatureSpec:
    """Features of a backbone that a classifier reads."""

    blocks: int
    """Number of last blocks."""
    pooling: ProbePooling
    """cls: their class tokens side by side, earlier block first; cls_mean: the last block's mean
    patch token behind them (DINOv2, iBOT); cls_mean_interleaved: both of one block element by
    element, c0 m0 c1 m1 ... (DINO)."""


@dataclass(frozen=True)
class Head:
    """One classifier of a grid, told from the others by all that it is given."""

    reads: FeatureSpec
    lr: float
    """The peak learning rate for a batch of 256."""

    @property
    def name(self) -> str:
        """Unlike DINOv2's, which has the scaled rate at five decimals, never another's as well."""
        return f"{self.reads.blocks}_blocks_{self.reads.pooling}_lr_{self.lr!r}"


def grid(
    blocks: Sequence[int], poolings: Sequence[ProbePooling], lrs: Sequence[float]
) -> list[Head]:
    """Every combination, by blocks, then pooling, then rate: DINOv2's order of creation."""
    return [Head(FeatureSpec(n, pooling), lr) for n in blocks for pooling in poolings for lr in lrs]


def assemble(blocks_BND: Sequence[Tensor], prefix: int, reads: FeatureSpec) -> Tensor:
    """The features that a classifier reads: (B, width).

    Args:
        blocks_BND: tokens of the last blocks, normed, earlier first (``last_blocks``).
        prefix: tokens ahead of the patches: the class token, registers.
        reads: which of them.

    Raises:
        ValueError: interleaving of more than one block, or of blocks that are not given.
    """
    if reads.blocks > len(blocks_BND):
        raise ValueError(f"{reads.blocks} blocks of {len(blocks_BND)}")
    classes = [tokens[:, 0] for tokens in blocks_BND[len(blocks_BND) - reads.blocks :]]
    if reads.pooling == "cls":
        return torch.cat(classes, dim=1)
    mean = blocks_BND[-1][:, prefix:].mean(dim=1)
    if reads.pooling == "cls_mean":
        return torch.cat([*classes, mean], dim=1)
    if reads.blocks > 1:
        raise ValueError("class token and mean interleave for one block only")
    return torch.stack([classes[0], mean], dim=2).flatten(1)


def read_backbone(
    backbone: BackboneModel, images: Tensor, reads: Sequence[FeatureSpec]
) -> dict[FeatureSpec, Tensor]:
    """All that a grid of classifiers reads, each (B, width) float32, from one pass.

    Args:
        backbone: in evaluation mode. A ResNet only gives its global average.
        images: (B, 3, H, W).
        reads: what the classifiers read.

    Raises:
        ValueError: the backbone lacks what is to be read.
    """
    if is_resnet(backbone):
        if any(one != FeatureSpec(1, "cls") for one in reads):
            raise ValueError("a ResNet gives one vector an image")
        return dict.fromkeys(reads, global_feature(backbone, images).float())
    blocks = last_blocks(backbone, images, max(one.blocks for one in reads))
    prefix = backbone.num_prefix_tokens
    if not has_class_token(backbone):
        blocks = [
            torch.cat([feature.unsqueeze(1), tokens], dim=1)
            for feature, tokens in zip(_in_place_of_class(backbone, blocks), blocks, strict=True)
        ]
        prefix += 1
    blocks = [tokens.float() for tokens in blocks]
    return {one: assemble(blocks, prefix, one) for one in reads}


def _in_place_of_class(vit: Transformer, blocks_BND: Sequence[Tensor]) -> list[Tensor]:
    """A feature of each block in place of a class token: the image's of the last one, the mean
    patch token of those before, which no pooling head was trained on."""
    means = [tokens[:, vit.num_prefix_tokens :].mean(dim=1) for tokens in blocks_BND[:-1]]
    return [*means, image_feature(vit, blocks_BND[-1])]


def width(dim: int, reads: FeatureSpec) -> int:
    """Number of features that a classifier reads of a backbone that is ``dim`` wide."""
    return dim * (reads.blocks + (reads.pooling != "cls"))


class Probes(nn.Module):
    """Linear classifiers side by side; those that read the same are one matrix product.

    Args:
        heads: L of them, no two alike.
        widths: of the features that each of them reads.
        classes: C.
        batch_norm: features go through a batch norm without affine first (MAE): one for each kind
            of features, for it does not depend on the classifier.
        init: "normal": weights of standard deviation 0.01, bias 0 (DINO, DINOv2); "truncated":
            the same weights cut off at two units, bias as torch's linear layer has it (MAE).

    Raises:
        ValueError: two heads alike.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        widths: Mapping[FeatureSpec, int],
        classes: int,
        *,
        batch_norm: bool = False,
        init: Literal["normal", "truncated"] = "normal",
    ) -> None:
        super().__init__()
        if len(set(heads)) < len(heads):
            raise ValueError("two heads are alike")
        self.heads, self.classes = list(heads), classes
        self.reads = list(dict.fromkeys(head.reads for head in heads))
        self.linears = nn.ModuleList(nn.Linear(widths[head.reads], classes) for head in heads)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(widths[reads], eps=BATCH_NORM_EPS, affine=False)
            if batch_norm
            else nn.Identity()
            for reads in self.reads
        )
        for linear in self.classifiers():
            if init == "normal":
                nn.init.normal_(linear.weight, std=0.01)
                nn.init.zeros_(linear.bias)
            else:
                # As in timm and MAE, the cut is at 2, not at two deviations.
                nn.init.trunc_normal_(linear.weight, std=0.01)

    def classifiers(self) -> list[nn.Linear]:
        """Each head's own weights, in order."""
        return cast("list[nn.Linear]", list(self.linears))

    def forward(self, features: Mapping[FeatureSpec, Tensor]) -> Tensor:
        """Logits (B, L, C) of the features (B, width) that the classifiers read."""
        linears = self.classifiers()
        logits: list[Tensor] = [torch.empty(0)] * len(self.heads)
        for reads, norm in zip(self.reads, self.norms, strict=True):
            members = [i for i, head in enumerate(self.heads) if head.reads == reads]
            weight = torch.cat([linears[i].weight for i in members])
            bias = torch.cat([linears[i].bias for i in members])
            together = F.linear(norm(features[reads]), weight, bias)
            for i, own in zip(members, together.split(self.classes, dim=1), strict=True):
                logits[i] = own
        return torch.stack(logits, dim=1)

    def losses(self, features: Mapping[FeatureSpec, Tensor], labels: Tensor) -> Tensor:
        """Each classifier's mean cross entropy: (L,)."""
        return cross_entropies(self(features), labels)


def cross_entropies(logits_BLC: Tensor, labels: Tensor) -> Tensor:
    """Each classifier's mean cross entropy with the labels (B,): (L,)."""
    targets = labels.unsqueeze(1).expand(logits_BLC.shape[:2])
    # Flat, because the loss over a further axis has no deterministic form on a GPU.
    losses = F.cross_entropy(logits_BLC.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).mean(dim=0)


def build_optimizer(
    probes: Probes,
    name: Literal["sgd", "lars"],
    batch_size: int,
    *,
    momentum: float,
    weight_decay: float,
    trust: float = 0.001,
) -> TorchOptimizer:
    """One group a head, with its ``peak`` learning rate for the batch."""
    groups = [
        {
            "params": list(linear.parameters()),
            "peak": head.lr * batch_size / 256,
            "weight_decay": weight_decay,
        }
        for head, linear in zip(probes.heads, probes.classifiers(), strict=True)
    ]
    if name == "lars":
        return LARS(groups, lr=0.0, momentum=momentum, trust=trust)
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum)


def set_rates(
    optimizer: TorchOptimizer, progress: Progress, schedule: Schedule, every: str = "step"
) -> None:
    """Each head's learning rate before a step.

    Args:
        optimizer: of ``build_optimizer``.
        progress: before the step.
        schedule: its shape.
        every: "step" (MAE, DINOv2), or "epoch": the rate of the epoch's first step (DINO).
    """
    if every == "epoch":
        epochs = round(progress.total_steps / progress.steps_per_epoch)
        progress = Progress(progress.epoch, 1, epochs)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(progress, schedule, group["peak"])


def train_step(
    probes: Probes,
    optimizer: TorchOptimizer,
    features: Mapping[FeatureSpec, Tensor],
    labels: Tensor,
) -> Tensor:
    """One update of every classifier, at the rates that are set; their losses before it (L,)."""
    losses = probes.losses(features, labels)
    optimizer.zero_grad(set_to_none=True)
    losses.sum().backward()
    optimizer.step()
    return losses.detach()


def best(correct: Sequence[int]) -> int:
    """The first of the heads with the most correct samples, in the order of creation."""
    return max(range(len(correct)), key=correct.__getitem__)
