"""Refusing numbers that are not finite, or no longer squared: in weights, features, scores."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from steps.command import UserError

LARGEST = 1e15
"""Of a feature: squares, and sums of them over a batch, stay finite in float32."""
DIVERGED = "lower the learning rate, or clip gradients"


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Fault of the first tensor that holds NaN or infinity; empty where none does."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and (wrong := int((~tensor.isfinite()).sum())):
            return f"{name}: {wrong} of {tensor.numel()} numbers are not finite"
    return ""


def check_weights(tensors: Iterable[tuple[str, Tensor]], where: str, remedy: str) -> None:
    """Let finite weights pass.

    Raises:
        UserError: a tensor that is not, by name.
    """
    if wrong := not_finite(tensors):
        raise UserError(where, wrong, remedy=remedy)


def check_rows(rows: Tensor, what: str, first: int = 0, largest: float = LARGEST) -> None:
    """Let finite features or scores pass.

    Features of 1e20 are finite, and their squares are not: normalised, they are all 0, and any
    class is as near as another.

    Args:
        rows: (N, …), a row a sample.
        what: they are, for the error.
        first: the index of the first row.
        largest: magnitude that may pass.

    Raises:
        UserError: the first row that is not finite or too large, by its index.
    """
    low, high = rows.flatten(1).aminmax(dim=1)
    fine = (low >= -largest) & (high <= largest)  # neither holds of NaN
    if not bool(fine.all()):
        wrong = int(torch.nonzero(~fine)[0])
        finite = bool(rows[wrong].isfinite().all())
        found = f"holds numbers beyond {largest:g}" if finite else "is not finite"
        raise UserError(
            what,
            f"row {first + wrong} {found} ({int((~fine).sum())} of {len(rows)} rows looked at)",
            remedy="the weights behind it have diverged: train them anew at a lower learning rate",
        )
