"""Refusing numbers that are not finite: in weights, in features, in scores."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from steps.command import UserError

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


def check_rows(rows: Tensor, what: str, first: int = 0) -> None:
    """Let finite features or scores pass.

    Args:
        rows: (N, …), a row a sample.
        what: they are, for the error.
        first: the index of the first row.

    Raises:
        UserError: the first row that is not finite, by its index.
    """
    fine = rows.isfinite().flatten(1).all(dim=1)
    if not bool(fine.all()):
        row = first + int(torch.nonzero(~fine)[0])
        raise UserError(
            what,
            f"row {row} is not finite ({int((~fine).sum())} of {len(rows)} rows looked at)",
            remedy="the weights behind it have diverged: train them anew at a lower learning rate",
        )
