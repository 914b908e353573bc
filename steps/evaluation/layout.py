"""Do features show where objects are? The class token's attention against instance masks.

A head's mask is the fewest patches that hold a share of its attention to patches (DINO,
arXiv:2104.14294, figure 4: 60 %). Its Jaccard index with the objects of an image, |A and B| over
|A or B|, is counted in pixels of the image as the backbone sees it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steps.command import UserError
from steps.data.loader import EvaluationViews
from steps.data.segmentations import Mask
from steps.data.views import centre_crop
from steps.evaluation.frozen import FrozenBackbone
from steps.models.features import class_attention


@dataclass(frozen=True)
class AttentionMaps:
    """Images with objects, as a backbone sees them, and where it looks.

    ``ids`` are M, ``images`` is (M, 3, S, S) uint8, ``objects`` (M, S, S) bool, ``attention``
    (M, heads, N).
    """

    ids: list[str]
    images: Tensor
    objects: Tensor
    attention: Tensor


def look_at(
    backbone: FrozenBackbone,
    views: EvaluationViews,
    masks: Sequence[Mask | None],
    batch_size: int,
) -> AttentionMaps:
    """The class token's attention on every image that has an object within the view.

    Args:
        backbone: on the device to use.
        views: the images.
        masks: the objects' pixels of each image, or None; cropped and resized as the image is.
        batch_size: images at a time.

    Raises:
        UserError: no image has an object.
    """
    kept, targets = [], []
    for index, mask in enumerate(masks):
        if mask is not None:
            grey = Image.fromarray(mask * np.uint8(255))
            target = np.asarray(centre_crop(grey, views.size, views.crop_fraction)) > 127
            if target.any():
                kept.append(index)
                targets.append(torch.from_numpy(target))
    if not kept:
        raise UserError(str(views.images.path), "no image with an object", allowed="instance masks")
    images = torch.stack([views[index][0] for index in kept])
    attention = [
        class_attention(backbone.transformer, backbone.inputs(part)).float().cpu()
        for part in images.split(batch_size)
    ]
    ids = [views.images.ids[index] for index in kept]
    return AttentionMaps(ids, images, torch.stack(targets), torch.cat(attention))


def overlaps(seen: AttentionMaps, mass: float) -> Tensor:
    """The Jaccard index of each head's mask with the objects of each image: (M, heads)."""
    masks = to_pixels(heaviest(seen.attention, mass), seen.images.shape[-1])
    return jaccard(masks, seen.objects.unsqueeze(1))


def share_inside(attention: Tensor, objects: Tensor) -> Tensor:
    """The share of the attention (M, N) that lies on the pixels of objects (M, S, S): (M,)."""
    spread = to_pixels(attention, objects.shape[-1])
    inside: Tensor = (spread * objects).sum(dim=(-2, -1)) / spread.sum(dim=(-2, -1))
    return inside


def heaviest(attention: Tensor, mass: float) -> Tensor:
    """The fewest patches that together hold ``mass`` of the attention: True there.

    Args:
        attention: (..., N), not negative.
        mass: of the sum over N, above 0 and at most 1.
    """
    shares, order = (attention / attention.sum(dim=-1, keepdim=True)).sort(dim=-1)
    # What lies below a patch in the order is left out as long as it is at most 1 - mass.
    kept = shares.cumsum(dim=-1) > 1 - mass
    return torch.zeros_like(kept).scatter_(-1, order, kept)


def to_pixels(patches: Tensor, side: int) -> Tensor:
    """Each patch as the pixels it covers: (..., N) of a square grid to (..., side, side)."""
    grid = math.isqrt(patches.shape[-1])
    square: Tensor = patches.unflatten(-1, (grid, grid))
    for axis in (-2, -1):
        square = square.repeat_interleave(side // grid, dim=axis)
    return square


def jaccard(masks: Tensor, objects: Tensor) -> Tensor:
    """|A and B| / |A or B| of bool masks over the last two axes; 0 where both are empty."""
    both = (masks & objects).sum(dim=(-2, -1))
    either = (masks | objects).sum(dim=(-2, -1))
    index: Tensor = both / either.clamp(min=1)
    return index


def principal_colours(tokens_BND: Tensor) -> Tensor:
    """The three main directions of all patch tokens together as colours: (B, N, 3) in 0 to 1.

    Each direction is stretched from its 2nd to its 98th percentile (as DINOv2, arXiv:2304.07193,
    figure 1 shows components as colours).
    """
    colours: Tensor = _colours(tokens_BND.flatten(0, 1)).unflatten(0, tokens_BND.shape[:2])
    return colours


def foreground_colours(tokens_BND: Tensor) -> Tensor:
    """The patch tokens of objects as colours, black elsewhere: (B, N, 3) in 0 to 1.

    The first component over all images parts their patches in two; the three main directions of
    one side alone give its colours (DINOv2, arXiv:2304.07193, figure 1). The sign of a component
    is arbitrary, so the objects are the side with fewer of the patches at the images' border.

    Args:
        tokens_BND: of square grids of patches.
    """
    flat = tokens_BND.flatten(0, 1)
    first = _components(flat, 1).squeeze(1) > 0
    side = math.isqrt(tokens_BND.shape[1])
    border = torch.ones(side, side, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    at_border = border.flatten().repeat(len(tokens_BND))
    inside = first if first[at_border].float().mean() < 0.5 else ~first
    colours = torch.zeros(len(flat), 3)
    if inside.sum() >= 3:  # fewer have no three directions
        colours[inside] = _colours(flat[inside])
    by_image: Tensor = colours.unflatten(0, tokens_BND.shape[:2])
    return by_image


def _components(tokens_ND: Tensor, count: int) -> Tensor:
    """Centred tokens along their main directions, (N, count), the heavier tail positive."""
    flat = tokens_ND.double()
    centred = flat - flat.mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    values = centred @ directions[:count].T
    # The sign of a direction is arbitrary: the heavier tail is the bright one.
    return torch.where(values.pow(3).sum(dim=0) < 0, -values, values)


def _colours(tokens_ND: Tensor) -> Tensor:
    values = _components(tokens_ND, 3)
    low, high = values.quantile(torch.tensor([0.02, 0.98], dtype=values.dtype), dim=0)
    colours: Tensor = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return colours.float()
