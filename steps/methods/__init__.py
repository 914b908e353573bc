"""One file a method; each reads like its paper."""

from steps.methods.build import build_method
from steps.methods.method import Batch, Draws, Losses, Method

__all__ = ["Batch", "Draws", "Losses", "Method", "build_method"]
