"""From images to one vector an image, or one a place: what heads and evaluations take."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from steps.models.backbones import Transformer
from steps.models.tokens import embed, encode


def global_feature(vit: Transformer, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """The class token after the final norm: (B, 3, H, W) to (B, D).

    Args:
        vit: with a class token.
        images: (B, 3, H, W).
        keep: drop-path draws (B, 2 * depth), or None to keep every branch.
    """
    tokens_BND = encode(vit, embed(vit, images), keep)
    return cast(Tensor, vit.norm(tokens_BND[:, 0]))
