"""One file a method; each reads like its paper."""

from steps.methods.build import Surroundings, build_method
from steps.methods.method import Batch, Draws, Encoded, JointMethod, Losses, Method

__all__ = [
    "Batch",
    "Draws",
    "Encoded",
    "JointMethod",
    "Losses",
    "Method",
    "Surroundings",
    "build_method",
]
