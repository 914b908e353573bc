"""Procedural images: drawn in seconds, to try everything on without a download."""

from steps.data.sources.shapes.reader import ShapesSource

__all__ = ["ShapesSource"]
