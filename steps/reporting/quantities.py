"""Numbers as the tables print them."""

from __future__ import annotations

import math

_FLOPS = ((1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"))


def significant(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, never in exponent form: 0.0123, 12.3, 1,230."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}"


def measured(value: float, unit: str) -> str:
    """A metric's value: shares in percent with one decimal, anything else with four digits."""
    return f"{value:.1f}" if unit == "%" else f"{value:.4g}"


def flops_unit(largest: float) -> tuple[float, str]:
    """The divisor and name of the unit in which a column up to ``largest`` FLOPs reads best."""
    return next((unit for unit in _FLOPS if largest >= unit[0]), _FLOPS[-1])


def duration(seconds: float) -> str:
    """Seconds as ``8.4 s``, ``45 s``, ``2 min 05 s`` or ``3 h 07 min``."""
    if seconds == 0:
        return "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def plural(count: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
