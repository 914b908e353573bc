"""Sheets of small pictures, one row per image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    def pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) with values in 0 to 1."""
        mean, std = (torch.tensor(list(v)).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return images * std + mean


@dataclass(frozen=True)
class Drawing:
    """Pictures by file name, PNG, and the same in numbers."""

    pictures: dict[str, bytes]
    facts: dict[str, float] = field(default_factory=dict)


def png(picture: Image.Image) -> bytes:
    """A picture as a file's content."""
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
