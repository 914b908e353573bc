"""Semantic segmentation with a linear head on frozen patch tokens.

Batch norm and a 1x1 convolution on the map of patch tokens, logits enlarged to the image's pixels
(DINOv2, arXiv:2304.07193, section 7.4; iBOT's linear protocol is the same without the norm).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from steps.command import UserError
from steps.core.finite import not_finite
from steps.core.seeds import derive, generator, seeded
from steps.data.annotations import IGNORED
from steps.data.loader import Loader
from steps.data.semantic import BACKGROUND, pixel_classes
from steps.data.shards import Images
from steps.data.views import centre_crop, resized_cut, to_tensor
from steps.engine.checkpoint import Scratch
from steps.evaluation.frozen import FrozenBackbone
from steps.models.features import last_blocks
from steps.params.protocols import Segment

Pair = tuple[int, int]
"""Epoch and index of an image."""


class Scenes(Dataset[tuple[Tensor, Tensor]]):
    """Images (3, S, S) uint8 with their classes (S, S) int64, by (epoch, index).

    Args:
        folder: the prepared dataset.
        split: train or val.
        size: S.
        protocol: the params.
        seed: of the views.
    """

    def __init__(self, folder: Path, split: str, size: int, protocol: Segment, seed: int) -> None:
        self.images = Images(folder, split)
        self.masks = pixel_classes(folder, split)
        if len(self.images) != len(self.masks):
            raise UserError(
                str(folder / f"{split}.json"),
                f"{len(self.masks)} images, and {split}.arrow has {len(self.images)}",
                remedy="prepare the dataset again",
            )
        self.size, self.protocol, self.seed = size, protocol, seed
        self.training = split == "train"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, pair: Pair) -> tuple[Tensor, Tensor]:
        epoch, index = pair
        image = self.images.image(index)
        mask = self.masks[index]
        if not self.training:
            view = centre_crop(image, self.size, self.protocol.crop_fraction)
            nearest = Image.Resampling.NEAREST
            grey = centre_crop(
                Image.fromarray(mask), self.size, self.protocol.crop_fraction, nearest
            )
            return to_tensor(view), torch.from_numpy(np.array(grey)).long()
        rng = np.random.default_rng(derive(self.seed, "views", epoch, index))
        scale = float(rng.uniform(self.protocol.scale[0], self.protocol.scale[1]))
        factor = scale * self.size / min(image.size)
        width, height = (max(round(side * factor), self.size) for side in image.size)
        left = int(rng.integers(0, width - self.size + 1))
        top = int(rng.integers(0, height - self.size + 1))
        cut = ((width, height), left, top, self.size)
        image = resized_cut(image, *cut, Image.Resampling.BICUBIC)
        grey = resized_cut(Image.fromarray(mask), *cut, Image.Resampling.NEAREST)
        pixels, classes = to_tensor(image), np.array(grey)
        if rng.random() < self.protocol.flip:
            pixels, classes = pixels.flip(2), classes[:, ::-1].copy()
        return pixels, torch.from_numpy(classes).long()


class Head(nn.Module):
    """Batch norm and a 1x1 convolution.

    Args:
        width: channels of the map.
        classes: C, background among them.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Conv2d(width, classes, 1)
        for name, values in self.linear.named_parameters():
            nn.init.normal_(values, std=0.01) if name == "weight" else nn.init.zeros_(values)

    def forward(self, map_BDHW: Tensor, size: int) -> Tensor:
        """(B, D, H, W) to logits (B, C, size, size)."""
        logits = self.linear(self.norm(map_BDHW))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def patch_map(backbone: FrozenBackbone, images: Tensor, blocks: int) -> Tensor:
    """Patch tokens of the last blocks: (B, blocks * D, S / patch, S / patch).

    Args:
        backbone: a vision transformer, on the device to use.
        images: uint8 (B, 3, S, S).
        blocks: how many of the last ones.
    """
    vit = backbone.transformer
    side = images.shape[-1] // vit.patch_embed.patch_size[0]
    tokens_BND = torch.cat(last_blocks(vit, backbone.inputs(images), blocks), dim=2)
    patches = tokens_BND[:, vit.num_prefix_tokens :]
    grid: Tensor = patches.transpose(1, 2).unflatten(2, (side, side))
    return grid


def train(
    backbone: FrozenBackbone, scenes: Scenes, protocol: Segment, seed: int, scratch: Scratch
) -> Head:
    """A head trained on the scenes, from a checkpoint where there is one.

    Raises:
        UserError: fewer images than a batch, or the training diverges.
    """
    per_epoch = len(scenes) // protocol.batch_size
    if not per_epoch:
        raise UserError(
            "segmentation protocol: batch_size",
            f"{protocol.batch_size}, but there are {len(scenes)} images to train on",
        )
    total = protocol.epochs * per_epoch
    width = protocol.blocks * backbone.model.num_features
    with seeded(seed, "segment"):
        head = Head(width, len(scenes.masks.classes)).to(backbone.device)
    optimizer = torch.optim.AdamW(
        head.parameters(), betas=(protocol.betas[0], protocol.betas[1]),
        weight_decay=protocol.weight_decay,
    )  # fmt: skip
    start = 0
    if (state := scratch.load()) is not None:
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    batches: Iterator[Any] = iter(
        Loader(
            scenes,
            batch_sampler=list(_batches(len(scenes), protocol.batch_size, seed, start, total)),
            num_workers=protocol.workers,
        )
    )
    saved = time.monotonic()
    for step in range(start, total):
        images, classes = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = protocol.lr * rate(step, total, protocol.warmup_iterations)
        logits = head(patch_map(backbone, images, protocol.blocks), scenes.size)
        loss = mean_loss(logits, classes.to(backbone.device))
        if not bool(loss.isfinite()):
            raise _diverged(step, total, f"the loss is {loss.item()}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if time.monotonic() - saved > protocol.checkpoint_seconds:
            _check(head, step, total)
            weights = {"head": head.state_dict(), "optimizer": optimizer.state_dict()}
            scratch.save({**weights, "step": step + 1}, step + 1)
            saved = time.monotonic()
    _check(head, total - 1, total)
    return head.eval()


def _check(head: Head, step: int, total: int) -> None:
    """Look at the weights after an update, which no loss has shown yet."""
    if wrong := not_finite(head.state_dict().items()):
        raise _diverged(step, total, wrong)


def _diverged(step: int, total: int, found: str) -> UserError:
    return UserError(
        f"segment, step {step + 1} of {total}",
        found,
        remedy="lower lr in the protocol, or lengthen warmup_iterations",
    )


def mean_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross-entropy of the pixels whose class is known; 0 where a batch has none.

    Args:
        logits: (B, C, S, S).
        classes: (B, S, S), some of them ``IGNORED``.
    """
    total = F.cross_entropy(logits, classes, ignore_index=IGNORED, reduction="sum")
    return total / (classes != IGNORED).sum().clamp(min=1)


def rate(step: int, total: int, warmup: int) -> float:
    """The share of the peak: linear up over ``warmup`` steps, on a line from 1 to 0 over all."""
    return min((step + 1) / max(warmup, 1), 1.0) * (1 - step / total)


def _batches(images: int, batch: int, seed: int, start: int, stop: int) -> Iterator[list[Pair]]:
    """Each epoch is one permutation, cut into batches; what is left over is dropped."""
    per_epoch = images // batch
    for epoch in range(start // per_epoch, math.ceil(stop / per_epoch)):
        order = torch.randperm(images, generator=generator(seed, "order", epoch)).tolist()
        for k in range(max(start - epoch * per_epoch, 0), per_epoch):
            yield [(epoch, index) for index in order[k * batch : (k + 1) * batch]]


@torch.no_grad()
def confusion(backbone: FrozenBackbone, head: Head, scenes: Scenes, batch_size: int) -> Tensor:
    """Pixels of each of N scenes by true and predicted class, (N, C, C) int64; ignored nowhere."""
    classes = len(scenes.masks.classes)
    counts = []
    pairs = [(0, index) for index in range(len(scenes))]
    batches = [pairs[k : k + batch_size] for k in range(0, len(pairs), batch_size)]
    for images, truth in DataLoader(scenes, batch_sampler=batches):
        tokens = patch_map(backbone, images, scenes.protocol.blocks)
        found = head(tokens, scenes.size).argmax(dim=1).cpu()
        for right, guessed in zip(truth, found, strict=True):
            known = right != IGNORED
            cells = right[known] * classes + guessed[known]
            counts.append(torch.bincount(cells, minlength=classes**2))
    return torch.stack(counts).view(-1, classes, classes)


def scores(counts: Tensor, first: str = BACKGROUND) -> dict[str, float]:
    """Shares from a confusion matrix (C, C), rows the truth.

    ``miou``: intersection over union of a class's pixels, true and predicted, over all images,
    the mean of classes that there are in either; ``miou_objects``: without the background, where
    the ``first`` class is it; ``accuracy``: of pixels that are right.
    """
    counts = counts.double()
    hits = counts.diagonal()
    union = counts.sum(dim=0) + counts.sum(dim=1) - hits
    there = union > 0
    overlap = hits / union.clamp(min=1)
    objects = there.clone()
    objects[0] = False
    found = {
        "miou": float(overlap[there].mean()),
        "miou_objects": float(overlap[objects].mean()) if objects.any() else 0.0,
        "accuracy": float(hits.sum() / counts.sum()),
    }
    if first != BACKGROUND:
        del found["miou_objects"]
    return found
