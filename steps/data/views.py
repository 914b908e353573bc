"""Views: random parameters first, then their application to a PIL image.

Every choice comes from the generator handed in, so a sample's views depend on its seed alone and
not on which process draws them or what it drew before.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torch.nn.functional import conv2d, pad
from torchvision.transforms import functional as F

from steps.params.views import Interpolation, Jitter, Operation, SecondImage, View

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
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
        One (3, S, S) uint8 tensor a view, or two where it has a second image.
    """
    return [
        to_tensor(made)
        for view in views
        for _ in range(view.count)
        for made in _images(image, view, view.size or size, rng)
    ]


def make_view(image: Image.Image, view: View, size: int, rng: np.random.Generator) -> Image.Image:
    """One view: crop, flip, colours, blur, solarisation, in the view's order."""
    for operation in view.order:
        image = _OPERATIONS[operation](image, view, size, rng)
    return image


def make_pair(
    image: Image.Image, view: View, second: SecondImage, size: int, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """One view and its second image: the same rectangle, resized twice (BEiT, arXiv:2106.08254)."""
    *before, _ = view.order
    for operation in before:
        image = _OPERATIONS[operation](image, view, size, rng)
    cropped = _cut(image, view, rng)
    return (
        _resize(cropped, size, view.interpolation),
        _resize(cropped, second.size or size, second.interpolation),
    )


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


def _images(
    image: Image.Image, view: View, size: int, rng: np.random.Generator
) -> tuple[Image.Image, ...]:
    if view.second is None:
        return (make_view(image, view, size, rng),)
    return make_pair(image, view, view.second, size, rng)


def _crop(image: Image.Image, view: View, size: int, rng: np.random.Generator) -> Image.Image:
    return _resize(_cut(image, view, rng), size, view.interpolation)


def _cut(image: Image.Image, view: View, rng: np.random.Generator) -> Image.Image:
    left, top, width, height = sample_crop(image.width, image.height, view, rng)
    return image.crop((left, top, left + width, top + height))


def _resize(image: Image.Image, size: int, interpolation: Interpolation) -> Image.Image:
    return image.resize((size, size), RESAMPLING[interpolation])


def _flip(image: Image.Image, view: View, size: int, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image) if rng.random() < view.flip else image


def _jitter(image: Image.Image, view: View, size: int, rng: np.random.Generator) -> Image.Image:
    if view.jitter is None or rng.random() >= view.jitter.probability:
        return image
    return jitter_colours(image, view.jitter, rng)


def _grayscale(image: Image.Image, view: View, size: int, rng: np.random.Generator) -> Image.Image:
    return image.convert("L").convert("RGB") if rng.random() < view.grayscale else image


def _blur(image: Image.Image, view: View, size: int, rng: np.random.Generator) -> Image.Image:
    if view.blur is None or rng.random() >= view.blur.probability:
        return image
    sigma = _uniform(view.blur.sigma, rng)
    if view.blur.kernel is None:
        return image.filter(ImageFilter.GaussianBlur(sigma))
    if view.blur.kernel == "tenth":
        return gaussian_blur(image, sigma, radius=image.height // 10 // 2, edge="constant")
    return gaussian_blur(image, sigma, radius=view.blur.kernel // 2, edge="reflect")


def gaussian_blur(image: Image.Image, sigma: float, *, radius: int, edge: str) -> Image.Image:
    """Blur by a Gaussian cut off at ``radius`` pixels.

    Args:
        image: RGB.
        sigma: standard deviation in pixels.
        radius: the kernel has 2 * radius + 1 taps, which add up to 1.
        edge: "reflect" mirrors the image beyond its edge, "constant" puts black there.
    """
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = (-(offsets**2) / (2 * sigma**2)).softmax(dim=0).float()
    pixels = pad(to_tensor(image).float(), [radius] * 4, mode=edge).unsqueeze(1)
    pixels = conv2d(conv2d(pixels, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1)).squeeze(1)
    return Image.fromarray(pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def _solarize(image: Image.Image, view: View, size: int, rng: np.random.Generator) -> Image.Image:
    if rng.random() >= view.solarize:
        return image
    return ImageOps.solarize(image, threshold=view.solarize_threshold)


def jitter_colours(image: Image.Image, jitter: Jitter, rng: np.random.Generator) -> Image.Image:
    """Change brightness, contrast, saturation and hue by random amounts in random order."""
    changes: list[Callable[[Image.Image], Image.Image]] = []
    for strength, adjust in (
        (jitter.brightness, F.adjust_brightness),
        (jitter.contrast, F.adjust_contrast),
        (jitter.saturation, F.adjust_saturation),
    ):
        factor = rng.uniform(max(0.0, 1 - strength), 1 + strength)
        changes.append(functools.partial(_adjust, adjust, factor))
    shift = rng.uniform(-jitter.hue, jitter.hue)
    # To hue, values and back rounds: without a shift the image stays as it is.
    changes.append(functools.partial(_adjust, F.adjust_hue, shift) if jitter.hue else _unchanged)
    for place in rng.permutation(len(changes)):
        image = changes[place](image)
    return image


def _adjust(
    adjust: Callable[[Image.Image, float], Image.Image], factor: float, image: Image.Image
) -> Image.Image:
    return adjust(image, factor)


def _unchanged(image: Image.Image) -> Image.Image:
    return image


def _rand_augment(
    image: Image.Image, view: View, size: int, rng: np.random.Generator
) -> Image.Image:
    """timm's RandAugment, which draws from the global generators of random and numpy."""
    if view.rand_augment is None:
        return image
    augment = _rand_augment_ops(view.rand_augment, image.width)
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


_OPERATIONS: Mapping[
    Operation, Callable[[Image.Image, View, int, np.random.Generator], Image.Image]
] = {
    "crop": _crop,
    "flip": _flip,
    "rand_augment": _rand_augment,
    "jitter": _jitter,
    "grayscale": _grayscale,
    "blur": _blur,
    "solarize": _solarize,
}
