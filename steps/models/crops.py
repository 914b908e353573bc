"""Crops of a batch of images: sample by sample, as draws have them, and view by view, as rows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from steps.command import UserError


def by_view(tensor: Tensor) -> Tensor:
    """(B, V, …) to (V * B, …), view by view."""
    return tensor.transpose(0, 1).flatten(0, 1)


def by_sample(rows: Tensor, views: int) -> Tensor:
    """(V * B, …), view by view, to (B, V, …)."""
    samples: Tensor = rows.unflatten(0, (views, -1)).transpose(0, 1)
    return samples


def global_side(sides: Sequence[int], crops: int) -> int:
    """The side of global crops in pixels.

    Args:
        sides: of each view of an image, the global ones first.
        crops: global ones among them.

    Raises:
        UserError: crops of one kind differ in size.
    """
    for kind, own in (("global", sides[:crops]), ("local", sides[crops:])):
        if len(set(own)) > 1:
            raise UserError(
                "recipe: training.views",
                f"{kind} crops of {' and '.join(map(str, own))} px",
                allowed=f"one size for all {kind} crops",
            )
    return sides[0]
