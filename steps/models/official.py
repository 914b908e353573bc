"""The parameter names of the official implementations, and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_RULES: dict[str, list[tuple[str, str]]] = {
    # facebookresearch/mae: encoder and decoder stand side by side.
    "mae": [
        (r"^decoder_(embed|pos_embed|blocks|norm|pred)\b", r"decoder.\1"),
        (r"^mask_token$", "decoder.mask_token"),
        (r"^(?!decoder\.)", "backbone."),
    ],
    # facebookresearch/dino: a wrapper around backbone and head for each network.
    "dino": [
        (r"^dino_loss\.center$", "center.value"),
    ],
}


def our_name(method: str, official: str) -> str:
    """The name in our module of a parameter of the official implementation.

    Raises:
        KeyError: the method has no official naming here.
    """
    for pattern, replacement in _RULES[method]:
        renamed = re.sub(pattern, replacement, official)
        if renamed != official:
            return renamed
    return official


def from_official(method: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the official naming, renamed to load into our method's module."""
    return {our_name(method, name): tensor for name, tensor in weights.items()}
