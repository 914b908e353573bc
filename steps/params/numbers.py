"""Kinds of numbers that params take: an out-of-range value is refused when a file is read."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Len, Lt

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
