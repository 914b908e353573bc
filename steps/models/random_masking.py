"""Random masking by sorting noise (MAE, arXiv:2111.06377, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steps.command import UserError


@dataclass(frozen=True)
class Masking:
    """Which of N places each of B samples keeps."""

    keep: Tensor
    """(B, K) int64: the kept places, by rising noise."""
    restore: Tensor
    """(B, N) int64: the rank of each place's noise; ranks below K are kept."""

    @property
    def removed(self) -> Tensor:
        """(B, N) bool, in the order of places."""
        return self.restore >= self.keep.shape[1]


def kept(places: int, ratio: float, *, least: int = 0) -> int:
    """How many places stay.

    The integer part of the floating-point product, as in MAE's reference: 100 patches at ratio
    0.9 keep 9.

    Raises:
        UserError: fewer than ``least``.
    """
    count = int(places * (1 - ratio))
    if count < least:
        raise UserError(
            "method.mask_ratio",
            f"{ratio} keeps {count} of {places} patches",
            allowed=f"ratios that keep {least} or more",
        )
    return count


def random_masking(noise_BN: Tensor, ratio: float) -> Masking:
    """Keep the places with the smallest noise.

    Args:
        noise_BN: a uniform number a place.
        ratio: share of the places that go.
    """
    order = noise_BN.argsort(dim=1)
    return Masking(order[:, : kept(noise_BN.shape[1], ratio)], order.argsort(dim=1))


def take(tokens_BND: Tensor, places_BK: Tensor) -> Tensor:
    """The tokens at each sample's places: (B, K, D)."""
    samples, tokens, width = tokens_BND.shape
    first = torch.arange(0, samples * tokens, tokens, device=places_BK.device)
    # Whole rows: a GPU's deterministic gradient of ``gather`` sorts every number by itself.
    rows = (places_BK + first.unsqueeze(1)).flatten()
    return tokens_BND.flatten(0, 1).index_select(0, rows).view(samples, -1, width)
