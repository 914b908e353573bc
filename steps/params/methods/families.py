"""Families of methods, by what pretraining asks of a network."""

from __future__ import annotations

from typing import Literal

Family = Literal[
    "contrastive", "masked", "position", "hybrid", "language", "supervised", "untrained"
]

FAMILIES: dict[str, Family] = {
    "simclr": "contrastive",
    "mocov3": "contrastive",
    "dino": "contrastive",
    "mae": "masked",
    "beit": "masked",
    "beit2": "masked",
    "droppos": "position",
    "mp3": "position",
    "dilemma": "position",
    "ibot": "hybrid",
    "dinov2": "hybrid",
    "clip": "language",
    "supervised": "supervised",
    "random": "untrained",
}
"""By a method's name. contrastive: two views of an image agree (with other images as contrast, or
by self-distillation); masked: hidden patches are predicted; position: where patches were;
hybrid: views and hidden patches; language: captions, which may name the class."""
