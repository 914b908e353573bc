"""One file a method; each reads like its paper."""

from steps.methods.build import (
    Surroundings,
    backbone_for,
    build_method,
    initialise_untrained,
)
from steps.methods.method import Batch, Draws, Encoded, JointMethod, Losses, Method

__all__ = [
    "Batch",
    "Draws",
    "Encoded",
    "JointMethod",
    "Losses",
    "Method",
    "Surroundings",
    "backbone_for",
    "build_method",
    "initialise_untrained",
]
