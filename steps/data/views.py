"""Views: random parameters first, then their application to a PIL image.

Every choice comes from the generator handed in, so a sample's views depend on its seed alone and
not on which process draws them or what it drew before.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms import functional as F

from steps.params.views import Jitter, View

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def make_views(
    image: Image.Image, views: Sequence[View], size: int, rng: np.random.Generator
) -> list[Tensor]:
    """All views of an image, in the order of the recipe's list.

    Args:
        image: RGB.
        views: their params.
        size: the side of views that give none.
        rng: decides everything.

    Returns:
        One (3, S, S) uint8 tensor a view.
    """
    return [
        to_tensor(make_view(image, view, view.size or size, rng))
        for view in views
        for _ in range(view.count)
    ]


def make_view(image: Image.Image, view: View, size: int, rng: np.random.Generator) -> Image.Image:
    """One view: crop, flip, colours, blur, solarisation."""
    left, top, width, height = sample_crop(image.width, image.height, view, rng)
    cropped = image.crop((left, top, left + width, top + height))
    image = cropped.resize((size, size), RESAMPLING[view.interpolation])
    if rng.random() < view.flip:
        image = ImageOps.mirror(image)
    if view.rand_augment is not None:
        image = _rand_augment(image, view.rand_augment, rng)
    if view.jitter is not None and rng.random() < view.jitter.probability:
        image = _jitter(image, view.jitter, rng)
    if rng.random() < view.grayscale:
        image = image.convert("L").convert("RGB")
    if view.blur is not None and rng.random() < view.blur.probability:
        image = image.filter(ImageFilter.GaussianBlur(_uniform(view.blur.sigma, rng)))
    if rng.random() < view.solarize:
        image = ImageOps.solarize(image, threshold=128)
    return image


def sample_crop(
    width: int, height: int, view: View, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random resized crop (Inception, arXiv:1409.4842).

    Ten tries at an area and a log-uniform aspect ratio; then the largest centred crop within the
    aspect range.
    """
    low, high = (math.log(bound) for bound in view.aspect)
    for _ in range(10):
        area = width * height * _uniform(view.area, rng)
        aspect = math.exp(rng.uniform(low, high))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            left = int(rng.integers(width - wide + 1))
            return left, int(rng.integers(height - tall + 1)), wide, tall
    ratio = min(max(width / height, view.aspect[0]), view.aspect[1])
    wide, tall = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def centre_crop(image: Image.Image, size: int, crop_fraction: float) -> Image.Image:
    """The evaluation view: short side to size / crop_fraction (bicubic), then the centre."""
    short = round(size / crop_fraction)
    scale = short / min(image.width, image.height)
    if scale != 1:
        resized = (max(round(image.width * scale), short), max(round(image.height * scale), short))
        image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, 3, H, W) to float32 with the channel mean and deviation (of 0 to 1) taken out."""
    shape = (1, 3, 1, 1)
    centre = torch.tensor(mean, device=images.device).view(shape)
    scale = torch.tensor(std, device=images.device).view(shape)
    return (images.float() / 255 - centre) / scale


def _uniform(interval: Sequence[float], rng: np.random.Generator) -> float:
    low, high = interval
    return rng.uniform(low, high)


def _jitter(image: Image.Image, jitter: Jitter, rng: np.random.Generator) -> Image.Image:
    changes: list[Callable[[Image.Image], Image.Image]] = []
    for strength, adjust in (
        (jitter.brightness, F.adjust_brightness),
        (jitter.contrast, F.adjust_contrast),
        (jitter.saturation, F.adjust_saturation),
    ):
        factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
        changes.append(functools.partial(_adjust, adjust, factor))
    shift = rng.uniform(-jitter.hue, jitter.hue)
    changes.append(functools.partial(_adjust, F.adjust_hue, shift))
    for place in rng.permutation(len(changes)):
        image = changes[place](image)
    return image


def _adjust(
    adjust: Callable[[Image.Image, float], Image.Image], factor: float, image: Image.Image
) -> Image.Image:
    return adjust(image, factor)


def _rand_augment(image: Image.Image, config: str, rng: np.random.Generator) -> Image.Image:
    """timm's RandAugment, which draws from the global generators of random and numpy."""
    augment = _rand_augment_ops(config, image.width)
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        random.seed(int(rng.integers(2**62)))
        np.random.seed(int(rng.integers(2**32)))
        return augment(image)
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


@functools.cache
def _rand_augment_ops(config: str, size: int) -> Callable[[Image.Image], Image.Image]:
    settings = {"translate_const": int(size * 0.45), "img_mean": (124, 116, 104)}
    return cast(Callable[[Image.Image], Image.Image], rand_augment_transform(config, settings))
