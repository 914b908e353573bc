"""The base of every params model, and the kinds of numbers that params take.

Keys are known, numbers finite and in range, nothing is converted silently.
"""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import BaseModel, ConfigDict

# --- The base of every params model: known keys, finite numbers, nothing converted silently


class Params(BaseModel):
    """A frozen group of params. A string where a number belongs is an error, and so is infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def resolved(self) -> dict[str, Any]:
        """All values, defaults included, as JSON: what a manifest records and a digest covers."""
        return self.model_dump(mode="json")


# --- Kinds of numbers that params take: an out-of-range value is refused when a file is read


Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
LARGEST = 2**31 - 1
"""Largest whole number: seeds, sizes and counters of every library hold it."""
Seed = Annotated[int, Ge(0), Le(LARGEST)]
Size = Annotated[int, Ge(1), Le(LARGEST)]
"""Number of things, or of pixels, on a command line."""
Positive = Annotated[float, Gt(0), Le(1e30)]
Epochs = Annotated[float, Gt(0), Le(1_000_000)]
NotNegative = Annotated[float, Ge(0), Le(1e30)]
Probability = Annotated[float, Ge(0), Le(1)]
Momentum = Annotated[float, Ge(0), Le(1)]
"""Of a moving average: 1 keeps it as it is."""
DropPath = Annotated[float, Ge(0), Lt(1)]
MaskRatio = Annotated[float, Ge(0), Lt(1)]
Interval = Annotated[list[Positive], Len(2, 2)]
"""[low, high] of a uniform draw."""
