"""Refuse numbers that are not finite, or whose squares are not: in weights, features, scores."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from steps.command import UserError

LARGEST = 1e15
"""Largest magnitude of a feature: its squares, summed over a batch, stay finite in float32."""
DIVERGED = "lower the learning rate, or clip gradients"


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Fault of the first tensor that holds NaN or infinity; empty if none does."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and (wrong := int((~tensor.isfinite()).sum())):
            return f"{name}: {wrong} of {tensor.numel()} numbers are not finite"
    return ""


def check_weights(tensors: Iterable[tuple[str, Tensor]], where: str, remedy: str) -> None:
    """Check that weights are finite.

    Raises:
        UserError: naming the first tensor that is not.
    """
    if wrong := not_finite(tensors):
        raise UserError(where, wrong, remedy=remedy)


def check_rows(rows: Tensor, what: str, first: int = 0, largest: float = LARGEST) -> None:
    """Check that features or scores are finite.

    Features of 1e20 are finite, but their squares are not: normalised, they are all 0, and every
    class is equally near.

    Args:
        rows: (N, …), one row per sample.
        what: name of the rows in the error.
        first: index of the first row.
        largest: greatest magnitude allowed.

    Raises:
        UserError: naming the first row that is not finite or too large, by its index.
    """
    low, high = rows.flatten(1).aminmax(dim=1)
    fine = (low >= -largest) & (high <= largest)  # both are false for NaN
    if not bool(fine.all()):
        wrong = int(torch.nonzero(~fine)[0])
        finite = bool(rows[wrong].isfinite().all())
        found = f"holds numbers beyond {largest:g}" if finite else "is not finite"
        raise UserError(
            what,
            f"row {first + wrong} {found} ({int((~fine).sum())} of {len(rows)} rows looked at)",
            remedy="the weights behind it have diverged: train them again at a lower learning rate",
        )
