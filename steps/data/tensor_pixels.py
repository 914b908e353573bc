"""Pixel operations of views on tensors: the same as on Pillow images, faster.

A crop is resized on uint8; from the first change of colours on values are float32 in [0, 255], and
are rounded once, at the end, where Pillow rounds after every operation. Hue is computed as such,
not in 256 steps. So pixels differ by a few of 255 from those of ``engine: pillow``, and are a
choice of the recipe. Images are (3, H, W), uint8 or float32.

Images of other channels or bits are (C, H, W), uint8 or uint16. Values of 16 bits become float32 in
[0, 255] at the first operation, so that params of views mean the same for both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

_LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601-2, as Pillow converts to gray."""
_LEAST = 1e-7
"""Taps of a Gaussian that are smaller change no pixel."""


def of_image(image: Image.Image) -> Tensor:
    """An RGB image, its channels last in memory."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def finished(image: Tensor, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Rounded to uint8, or to uint16 from float32 in [0, 255]; channels first in memory."""
    if image.is_floating_point() and dtype == torch.uint16:
        image = image.mul(_WIDE).add_(0.5).clamp_(0, 65535).to(dtype)
    elif image.is_floating_point():
        image = image.add(0.5).clamp_(0, 255).byte()
    return image.contiguous()


def cut(image: Tensor, left: int, top: int, width: int, height: int) -> Tensor:
    """A rectangle."""
    return _narrow(image[:, top : top + height, left : left + width])


def resize(image: Tensor, size: int, interpolation: str) -> Tensor:
    """To a square, antialiased as Pillow's filters are."""
    resized = F.interpolate(
        image.unsqueeze(0), (size, size), mode=interpolation, antialias=True, align_corners=False
    )
    return resized.squeeze(0).clamp_(0, 255)


def mirror(image: Tensor) -> Tensor:
    """Left and right exchanged."""
    return _narrow(image).flip(2)


def solarize(image: Tensor, threshold: float) -> Tensor:
    """Values of the threshold and above inverted."""
    image = _narrow(image)
    return torch.where(image >= threshold, 255 - image, image)


def grayscale(image: Tensor) -> Tensor:
    """All channels the luminance."""
    return _luma(_floats(image)).expand(3, -1, -1).clone()


def brightness(image: Tensor, factor: float) -> Tensor:
    """Towards black, or away from it."""
    return _floats(image).mul(factor).clamp_(0, 255)


def contrast(image: Tensor, factor: float) -> Tensor:
    """Towards the mean luminance, or away from it; towards the mean of all channels where they are
    not three."""
    values = _floats(image)
    mean = ((_luma(values) if len(values) == 3 else values).mean() + 0.5).floor()
    return values.mul(factor).add_(mean * (1 - factor)).clamp_(0, 255)


def saturation(image: Tensor, factor: float) -> Tensor:
    """Towards gray, or away from it."""
    values = _floats(image)
    return values.mul(factor).add_(_luma(values), alpha=1 - factor).clamp_(0, 255)


def hue(image: Tensor, shift: float) -> Tensor:
    """Turn the hue by a share of the circle.

    A channel is v - d max(0, min(k, 4 - k, 1)) with k = (n + 6 hue) mod 6, n = 5, 3, 1 for red,
    green, blue, v the largest of the three and d its distance to the smallest (the formula of HSV).
    """
    values = _floats(image)
    red, green, blue = values
    largest = values.amax(dim=0)
    distance = largest - values.amin(dim=0)
    is_red, is_green = largest == red, largest == green
    sixths = torch.where(
        is_red,
        green - blue,
        torch.where(
            is_green,
            (blue - red).add_(distance, alpha=2),
            (red - green).add_(distance, alpha=4),
        ),
    ).div_(distance.clamp(min=1e-6))
    offsets = torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1) + 6 * (shift % 1)
    phase = (sixths + offsets).remainder_(6)
    share = torch.minimum(phase, 4 - phase).clamp_(0, 1)
    turned: Tensor = largest - share * distance
    return turned


def gaussian_blur(image: Tensor, sigma: float, *, radius: int, edge: str) -> Tensor:
    """Blur by a Gaussian cut off at ``radius`` pixels.

    Args:
        image: (C, H, W).
        sigma: standard deviation in pixels.
        radius: the kernel has 2 * radius + 1 taps, which add up to 1.
        edge: "reflect" mirrors the image beyond its edge, "replicate" goes on with it, "constant"
            puts black there.
    """
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    taps = np.exp(-(offsets**2) / (2 * sigma**2))
    half = (taps / taps.sum())[radius:]
    reach = int((half > _LEAST).sum()) - 1
    values = _floats(image)
    if reach == 0:
        return values
    for axis in (1, 2):
        sides = [0, 0, reach, reach] if axis == 1 else [reach, reach, 0, 0]
        padded = F.pad(values.unsqueeze(0), sides, mode=edge).squeeze(0)
        length = values.shape[axis]
        values = padded.narrow(axis, reach, length) * half[0]
        for distance in range(1, reach + 1):
            weight = float(half[distance])
            values.add_(padded.narrow(axis, reach - distance, length), alpha=weight)
            values.add_(padded.narrow(axis, reach + distance, length), alpha=weight)
    return values


JITTER: tuple[Callable[[Tensor, float], Tensor], ...] = (brightness, contrast, saturation, hue)


_WIDE = 65535 / 255
"""Values of 16 bits for one of 8."""


def _narrow(image: Tensor) -> Tensor:
    """Values of 16 bits as float32 in [0, 255]; others as they are."""
    return image.float().div_(_WIDE) if image.dtype == torch.uint16 else image


def _floats(image: Tensor) -> Tensor:
    image = _narrow(image)
    return image if image.is_floating_point() else image.float().contiguous()


def _luma(values: Tensor) -> Tensor:
    red, green, blue = values
    luma: Tensor = (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    return luma
