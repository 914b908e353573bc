"""Views: random parameters first, then their application to a Pillow image, or to a tensor.

Every choice comes from the generator handed in, so a sample's views only depend on its seed and
not on which process draws them or what it drew before.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps, ImageStat
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms import functional as F

from steps.data import tensor_pixels
from steps.data.bands import Array, resized
from steps.params.views import Interpolation, Jitter, Operation, SecondImage, View

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Pixels = TypeVar("Pixels", Image.Image, Tensor)


def make_views(
    image: Image.Image | Array, views: Sequence[View], size: int, rng: np.random.Generator
) -> list[Tensor]:
    """All views of an image, in the order of the recipe's list.

    Args:
        image: RGB, or of other channels or bits an array (C, H, W), whose views are all computed on
            tensors.
        views: their params.
        size: the side of views that give none.
        rng: decides everything.

    Returns:
        One (C, S, S) tensor a view, or two where it has a second image, of the image's bits: uint8
        or uint16.
    """
    tensor = None
    if not isinstance(image, Image.Image):
        bands = to_tensor(image)
        sides = [(view, view.size or size) for view in views for _ in range(view.count)]
        return [
            tensor_pixels.finished(one, bands.dtype)
            for view, side in sides
            for one in _images(bands, view, side, rng)
        ]
    if any(view.engine == "tensor" for view in views):
        tensor = tensor_pixels.of_image(image)
    made: list[Tensor] = []
    for view in views:
        side = view.size or size
        for _ in range(view.count):
            if view.engine == "tensor" and tensor is not None:
                made.append(tensor_pixels.finished(make_view(tensor, view, side, rng)))
            else:
                made += [to_tensor(one) for one in _images(image, view, side, rng)]
    return made


def make_view(image: Pixels, view: View, size: int, rng: np.random.Generator) -> Pixels:
    """One view: crop, flip, colours, blur, solarisation, in the view's order.

    Args:
        image: a Pillow image, or a tensor (C, H, W), whose view is float32 in 0 to 255 where
            colours changed or values are uint16.
        view: its params.
        size: its side.
        rng: decides the same of both kinds of image.
    """
    for operation in view.order:
        image = cast(Pixels, _OPERATIONS[operation](image, view, size, rng))
    return image


def make_pair(
    image: Pixels, view: View, second: SecondImage, size: int, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """One view and its second image: the same rectangle, resized twice (BEiT, arXiv:2106.08254)."""
    *before, _ = view.order
    for operation in before:
        image = cast(Pixels, _OPERATIONS[operation](image, view, size, rng))
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
    wide = min(width, max(1, round(height * ratio)))
    tall = min(height, max(1, round(width / ratio)))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


def centre_crop(
    image: Image.Image,
    size: int,
    crop_fraction: float,
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """The evaluation view: short side to size / crop_fraction, then the centre. Of one channel too,
    in mode L or F."""
    short = round(size / crop_fraction)
    scale = short / min(image.width, image.height)
    width, height = (max(round(side * scale), short) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return resized_cut(image, (width, height), left, top, size, resampling)


def resized_cut(
    image: Image.Image,
    resized: tuple[int, int],
    left: int,
    top: int,
    size: int,
    resampling: Image.Resampling,
) -> Image.Image:
    """A square of ``size`` pixels of the image resized to ``resized`` (width, height).

    Memory is bounded for strips too: of an image that would become much longer than the square,
    only what the square shows is resized. Pixels are then the same but for rounding, which Pillow
    also does between the two axes, in an order that depends on the sizes.
    """
    if max(resized) <= _STRIP * max(size, min(resized)):
        whole = image if image.size == resized else image.resize(resized, resampling)
        return whole.crop((left, top, left + size, top + size))
    spans = []
    for side, length, start in zip(image.size, resized, (left, top), strict=True):
        step = side / length
        first, last = start * step, (start + size) * step
        reach = math.ceil(_TAPS * max(step, 1.0)) + 1
        low, high = max(0, math.floor(first) - reach), min(side, math.ceil(last) + reach)
        spans.append((low, high, max(first - low, 0.0), min(last - low, high - low)))
    (x, right, x0, x1), (y, bottom, y0, y1) = spans
    part = image.crop((x, y, right, bottom))
    return part.resize((size, size), resampling, box=(x0, y0, x1, y1))


_STRIP = 8
"""Largest ratio of a resized image's sides; a longer image is cut first."""
_TAPS = 3
"""Neighbours to each side that a filter reads, at most (Lanczos), in steps of the output."""


def evaluation_view(image: Image.Image | Array, size: int, crop_fraction: float) -> Tensor:
    """The centre crop (C, S, S) of an image as a set holds it, uint8 or uint16."""
    if isinstance(image, Image.Image):
        return to_tensor(centre_crop(image, size, crop_fraction))
    return to_tensor(resized(image, lambda band: centre_crop(band, size, crop_fraction)))


def to_tensor(image: Image.Image | Array) -> Tensor:
    """An RGB image as (3, H, W) uint8; an array (C, H, W) as it is."""
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return torch.from_numpy(image)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 or uint16 (B, C, H, W) to float32 with the channel mean and deviation (of 0 to 1) taken
    out."""
    centre, scale = _channels(tuple(mean), images.device), _channels(tuple(std), images.device)
    largest = 65535 if images.dtype == torch.uint16 else 255
    return (images.float() / largest - centre) / scale


@functools.cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A number a channel (1, C, 1, 1). Made once: a copy to a GPU would wait for all its work."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def _uniform(interval: Sequence[float], rng: np.random.Generator) -> float:
    low, high = interval
    return rng.uniform(low, high)


def _images(image: Pixels, view: View, size: int, rng: np.random.Generator) -> tuple[Pixels, ...]:
    if view.second is None:
        return (make_view(image, view, size, rng),)
    return make_pair(image, view, view.second, size, rng)


def _crop(image: Pixels, view: View, size: int, rng: np.random.Generator) -> Pixels:
    return _resize(_cut(image, view, rng), size, view.interpolation)


def _cut(image: Pixels, view: View, rng: np.random.Generator) -> Pixels:
    if isinstance(image, Tensor):
        height, width = image.shape[1:]
        return tensor_pixels.cut(image, *sample_crop(width, height, view, rng))
    left, top, width, height = sample_crop(image.width, image.height, view, rng)
    return image.crop((left, top, left + width, top + height))


def _resize(image: Pixels, size: int, interpolation: Interpolation) -> Pixels:
    if isinstance(image, Tensor):
        return tensor_pixels.resize(image, size, interpolation)
    return image.resize((size, size), RESAMPLING[interpolation])


def _flip(image: Pixels, view: View, size: int, rng: np.random.Generator) -> Pixels:
    if rng.random() >= view.flip:
        return image
    return tensor_pixels.mirror(image) if isinstance(image, Tensor) else ImageOps.mirror(image)


def _jitter(image: Pixels, view: View, size: int, rng: np.random.Generator) -> Pixels:
    if view.jitter is None or rng.random() >= view.jitter.probability:
        return image
    return jitter_colours(image, view.jitter, rng)


def _grayscale(image: Pixels, view: View, size: int, rng: np.random.Generator) -> Pixels:
    if rng.random() >= view.grayscale:
        return image
    if isinstance(image, Tensor):
        return tensor_pixels.grayscale(image)
    return image.convert("L").convert("RGB")


def _blur(image: Pixels, view: View, size: int, rng: np.random.Generator) -> Pixels:
    if view.blur is None or rng.random() >= view.blur.probability:
        return image
    sigma, kernel = _uniform(view.blur.sigma, rng), view.blur.kernel
    if kernel is None:
        if not isinstance(image, Tensor):
            return image.filter(ImageFilter.GaussianBlur(sigma))
        reach = min(math.ceil(4 * sigma), min(image.shape[1:]) - 1)
        return tensor_pixels.gaussian_blur(image, sigma, radius=reach, edge="replicate")
    edge = "constant" if kernel == "tenth" else "reflect"
    height = image.shape[1] if isinstance(image, Tensor) else image.height
    radius = height // 10 // 2 if kernel == "tenth" else kernel // 2
    if isinstance(image, Tensor):
        return tensor_pixels.gaussian_blur(image, sigma, radius=radius, edge=edge)
    return gaussian_blur(image, sigma, radius=radius, edge=edge)


def gaussian_blur(image: Image.Image, sigma: float, *, radius: int, edge: str) -> Image.Image:
    """``tensor_pixels.gaussian_blur`` of an RGB image, halves rounded to even."""
    blurred = tensor_pixels.gaussian_blur(to_tensor(image), sigma, radius=radius, edge=edge)
    return Image.fromarray(blurred.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def _solarize(image: Pixels, view: View, size: int, rng: np.random.Generator) -> Pixels:
    if rng.random() >= view.solarize:
        return image
    if isinstance(image, Tensor):
        return tensor_pixels.solarize(image, view.solarize_threshold)
    return ImageOps.solarize(image, threshold=view.solarize_threshold)


def jitter_colours(image: Pixels, jitter: Jitter, rng: np.random.Generator) -> Pixels:
    """Change brightness, contrast, saturation and hue by random amounts in random order."""
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    amounts = [rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
    amounts.append(rng.uniform(-jitter.hue, jitter.hue))
    for index in rng.permutation(len(amounts)):
        # To hue, values and back rounds: without a shift the image stays as it is.
        if index == _HUE and not jitter.hue:
            continue
        if isinstance(image, Tensor):
            if len(image) != 3 and index == _SATURATION:
                continue  # Its strength is 0, as params are checked for.
            image = tensor_pixels.JITTER[index](image, amounts[index])
        else:
            image = _JITTER[index](image, amounts[index])
    return image


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    return _by_value(image, 0, factor)


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    mean = int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5)
    return _by_value(image, mean, factor)


def _by_value(image: Image.Image, gray: int, factor: float) -> Image.Image:
    """Each value blended with one gray: Pillow's blend of the 256 values, looked up."""
    table = Image.blend(Image.new("L", _VALUES.size, gray), _VALUES, factor)
    return image.point(list(table.tobytes()) * 3)


_VALUES = Image.frombytes("L", (256, 1), bytes(range(256)))
_JITTER: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    _brightness,
    _contrast,
    F.adjust_saturation,
    F.adjust_hue,
)
_SATURATION, _HUE = 2, 3


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


_OPERATIONS: Mapping[Operation, Callable[..., Image.Image | Tensor]] = {
    "crop": _crop,
    "flip": _flip,
    "rand_augment": _rand_augment,
    "jitter": _jitter,
    "grayscale": _grayscale,
    "blur": _blur,
    "solarize": _solarize,
}
