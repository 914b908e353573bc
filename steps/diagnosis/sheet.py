"""Sheets of small pictures, one row per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steps.methods.method import Draws

_GAP = 4
_LEAST = 128
"""Pixels a side of a picture on the sheet, at least."""
_PERCENTILES = (0.02, 0.98)
_LEAST_RANGE = 1e-6
CHANNELS_SHOWN = "channels_shown"
"""Fact of pictures of images that are no photographs."""
_MANNER = "the first three (or the first), each from its 2nd to its 98th percentile"
_PAPER = (255, 255, 255)


def sheet(rows: Sequence[Sequence[Tensor]], least: int = _LEAST) -> Image.Image:
    """Pictures side by side, enlarged by whole pixels.

    Args:
        rows: of (3, H, W) pictures of one size, values in 0 to 1 (others are clipped).
        least: pixels a side of a picture on the sheet, at least.
    """
    height, width = rows[0][0].shape[1:]
    scale = max(1, -(-least // height))
    wide, tall = width * scale + _GAP, height * scale + _GAP
    paper = Image.new("RGB", (len(rows[0]) * wide + _GAP, len(rows) * tall + _GAP), _PAPER)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            values = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            large = np.repeat(np.repeat(values, scale, axis=0), scale, axis=1)
            corner = (_GAP + column * wide, _GAP + row * tall)
            paper.paste(Image.fromarray(np.ascontiguousarray(large)), corner)
    return paper


# --- What a method's drawing takes and gives


Batches = Iterable[tuple[Tensor, Draws]]
"""Held-out images (B, 3, H, W), normalised, with a method's random choices for them."""


@dataclass(frozen=True)
class Denormaliser:
    """From normalised images back to pixels."""

    mean: Sequence[float]
    std: Sequence[float]
    rgb: bool = True
    """Images are photographs of 8 bits, which are shown as they are."""

    def pixels(self, images: Tensor) -> Tensor:
        """(B, C, H, W) with values in 0 to 1."""
        mean, std = (torch.tensor(list(v)).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return images * std + mean

    def shown(self, pixels: Tensor, whole: Tensor) -> Tensor:
        """Pixels as a picture shows them: (B, C, H, W) in 0 to 1 to (B, 3, H, W).

        Photographs stay as they are. Of other images the first three channels are red, green and
        blue, or the first is gray where there are fewer, each from its 2nd to its 98th percentile.

        Args:
            pixels: of images, or made of them.
            whole: the images (B, C, H, W) that percentiles are taken of.
        """
        if self.rgb:
            return pixels
        count = 3 if pixels.shape[1] >= 3 else 1
        values = whole[:, :count].flatten(2).float()
        low, high = (
            torch.quantile(values, share, dim=2, keepdim=True).unsqueeze(3)
            for share in _PERCENTILES
        )
        picture = (pixels[:, :count] - low) / (high - low).clamp(min=_LEAST_RANGE)
        return picture.clamp(0, 1).expand(-1, 3, -1, -1)

    @property
    def facts(self) -> dict[str, str]:
        """Manner of showing images that are no photographs, for captions."""
        return {} if self.rgb else {CHANNELS_SHOWN: _MANNER}


@dataclass(frozen=True)
class Drawing:
    """Pictures by file name, PNG, and the same in numbers."""

    pictures: dict[str, bytes]
    facts: Mapping[str, float | str] = field(default_factory=dict)


def png(picture: Image.Image) -> bytes:
    """A picture as a file's content."""
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
