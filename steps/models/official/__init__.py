"""The weights of the official implementations under our names: one file a naming."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from steps.models.official import (
    beit,
    beit2,
    clip,
    dalle,
    dilemma,
    dino,
    dinov2,
    droppos,
    finetune,
    ibot,
    mae,
    mocov3,
    mp3,
    vqkd,
)
from steps.models.official.naming import Naming

NAMINGS: dict[str, Naming] = {
    "mae": mae.NAMING,
    "clip": clip.NAMING,
    "dino": dino.NAMING,
    "ibot": ibot.NAMING,
    "beit": beit.NAMING,
    "beit2": beit2.NAMING,
    "dalle": dalle.NAMING,
    "vqkd": vqkd.NAMING,
    "droppos": droppos.NAMING,
    "mp3": mp3.NAMING,
    "dinov2": dinov2.NAMING,
    "mocov3": mocov3.NAMING,
    "dilemma": dilemma.NAMING,
    "finetune": finetune.NAMING,
}
"""By method."""


def our_name(method: str, official: str) -> str:
    """The name in our module of a parameter of the official implementation.

    Raises:
        KeyError: the method has no official naming here.
    """
    return NAMINGS[method].our_name(official)


def our_form(method: str, official: str, tensor: Tensor) -> Tensor:
    """A tensor of the official implementation with the axes that it has in our module.

    Raises:
        KeyError: the method has no official naming here.
    """
    return NAMINGS[method].our_form(official, tensor)


def from_official(method: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the official naming, made to load into our method's module.

    Raises:
        KeyError: the method has no official naming here.
    """
    return NAMINGS[method].convert(weights)
