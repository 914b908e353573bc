"""From one normalisation of images to another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation per channel, of pixels in 0 to 1."""
PIXELS: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Pixels in 0 to 1 themselves."""


class Renormalise(nn.Module):
    """Images (B, 3, H, W) with one mean and deviation taken out, to another's.

    Where the two are the same, the images pass untouched, to the bit.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, given: Normalisation, wanted: Normalisation) -> None:
        super().__init__()
        (mean, std), (own_mean, own_std) = (
            [torch.tensor(list(values), dtype=torch.float64).view(1, 3, 1, 1) for values in pair]
            for pair in (given, wanted)
        )
        self.same = bool((mean == own_mean).all() and (std == own_std).all())
        self.register_buffer("scale", (std / own_std).float(), persistent=False)
        self.register_buffer("shift", ((mean - own_mean) / own_std).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), of the same size."""
        return images if self.same else images * self.scale + self.shift
