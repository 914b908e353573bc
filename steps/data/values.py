"""Values of a JSON file that somebody else wrote: taken for what they should be, or shown."""

from __future__ import annotations

import math
from typing import Any

_SHOWN = 40
"""Characters of a value in a message."""
_MOST_BITS = 63


def whole(value: Any) -> int | None:
    """A whole number of 64 bits, which tools also write as 7.0; None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    number = int(value)
    return number if number.bit_length() <= _MOST_BITS else None


def number(value: Any) -> float | None:
    """A finite number; None for all else: text, booleans, NaN, what a float cannot hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def shown(value: Any) -> str:
    """The beginning of a value, as a message shows it."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} too deep to show"
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
