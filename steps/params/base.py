"""The base of every params model, and the kinds of numbers in params."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

# --- The base of every params model


class _Later:
    """Type of ``LATER``."""


LATER = _Later()
"""Marks a key that earlier versions lack. At its default it is left out of what is written: params
are part of a run's identity, and a run made before the key existed is still the same run."""


class Params(BaseModel):
    """A frozen group of params. Unknown keys, converted types and infinite numbers are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def resolved(self) -> dict[str, Any]:
        """All values as JSON, defaults included, for manifests and digests."""
        return self.model_dump(mode="json")

    @model_serializer(mode="wrap")
    def _without_unused(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that are marked as ``LATER`` and have their defaults."""
        values: dict[str, Any] = serialise(self)
        for name, field in type(self).model_fields.items():
            if LATER in field.metadata and getattr(self, name) == field.default:
                values.pop(name, None)
        return values


# --- Kinds of numbers, with their ranges


Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
LARGEST = 2**31 - 1
"""Largest whole number, which seeds, sizes and counters of every library can hold."""
Seed = Annotated[int, Ge(0), Le(LARGEST)]
Size = Annotated[int, Ge(1), Le(LARGEST)]
"""Number of things or of pixels on a command line."""
Positive = Annotated[float, Gt(0), Le(1e30)]
Epochs = Annotated[float, Gt(0), Le(1_000_000)]
NotNegative = Annotated[float, Ge(0), Le(1e30)]
Probability = Annotated[float, Ge(0), Le(1)]
Momentum = Annotated[float, Ge(0), Le(1)]
"""Momentum of a moving average; at 1 it does not change."""
DropPath = Annotated[float, Ge(0), Lt(1)]
MaskRatio = Annotated[float, Ge(0), Lt(1)]
Interval = Annotated[list[Positive], Len(2, 2)]
"""[low, high] of a uniform draw."""
