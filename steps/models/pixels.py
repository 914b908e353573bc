"""Images as the pixels of their patches, and back."""

from __future__ import annotations

from torch import Tensor

_EPSILON = 1e-6


def patch_pixels(images: Tensor, size: int) -> Tensor:
    """The pixels of each patch in the order (row, column, channel).

    Args:
        images: (B, C, H, W).
        size: side of a patch, in pixels.

    Returns:
        (B, N, size * size * C), patches in raster order.
    """
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // size, size, width // size, size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)


def images_of(pixels_BNP: Tensor, size: int) -> Tensor:
    """The square images (B, C, H, W) whose ``patch_pixels`` these are."""
    batch, patches, values = pixels_BNP.shape
    side, channels = round(patches**0.5), values // size**2
    pixels = pixels_BNP.reshape(batch, side, side, size, size, channels)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, side * size, side * size)


def patch_statistics(pixels_BNP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation within each patch, (B, N, 1) both.

    The variance has divisor n - 1, and 1e-6 is added to it (MAE's reference code).
    """
    variance = pixels_BNP.var(dim=2, keepdim=True)
    return pixels_BNP.mean(dim=2, keepdim=True), (variance + _EPSILON).sqrt()


def pixel_targets(images: Tensor, size: int, *, normalised: bool) -> Tensor:
    """What a pixel decoder is to predict (MAE, arXiv:2111.06377, section 3).

    Args:
        images: (B, C, H, W).
        size: side of a patch, in pixels.
        normalised: by mean and standard deviation of each patch.

    Returns:
        (B, N, size * size * C).
    """
    pixels = patch_pixels(images, size)
    if not normalised:
        return pixels
    mean, deviation = patch_statistics(pixels)
    return (pixels - mean) / deviation
