"""What a method's drawing takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from steps.methods.method import Draws

Batches = Iterable[tuple[Tensor, Draws]]
"""Held-out images (B, 3, H, W), normalised, with a method's random choices for them."""


@dataclass(frozen=True)
class Look:
    """How normalised images become pixels again."""

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
