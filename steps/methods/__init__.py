"""One file per method; each reads like its paper."""

from steps.methods.build import backbone_for, build_method, initialise_untrained, start_from
from steps.methods.method import (
    Batch,
    BatchCoupledMethod,
    Draws,
    Encoded,
    Losses,
    Method,
    MethodContext,
)

__all__ = [
    "Batch",
    "BatchCoupledMethod",
    "Draws",
    "Encoded",
    "Losses",
    "Method",
    "MethodContext",
    "backbone_for",
    "build_method",
    "initialise_untrained",
    "start_from",
]
