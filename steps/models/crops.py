"""Crops of a batch of images: sample by sample, as draws have them, and view by view, as rows."""

from __future__ import annotations

from torch import Tensor


def by_view(tensor: Tensor) -> Tensor:
    """(B, V, …) to (V * B, …), view by view."""
    return tensor.transpose(0, 1).flatten(0, 1)


def by_sample(rows: Tensor, views: int) -> Tensor:
    """(V * B, …), view by view, to (B, V, …)."""
    samples: Tensor = rows.unflatten(0, (views, -1)).transpose(0, 1)
    return samples
