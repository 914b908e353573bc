"""Times as logs, terminals and pages show them."""

from __future__ import annotations


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
