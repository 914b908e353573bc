"""The published facts of the linear probes beside our protocols."""

from __future__ import annotations

from tests.golden.case import Case


def check_facts(case: Case) -> None:
    """Each part's facts against the protocol file of that name."""
