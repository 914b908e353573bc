"""Replay every recorded case of a reference implementation, number by number."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden.case import Case

REPLAYS: dict[str, Callable[[Case], None]] = {
    method: replay
    for file in sorted(Path(__file__).parent.glob("replay_*.py"))
    for method, replay in importlib.import_module(f"tests.golden.{file.stem}").REPLAYS.items()
}
"""By the case's ``method``; each replayer's module lists those it knows in ``REPLAYS``."""


def test_replay(case: Path, record_property: Callable[[str, object], None]) -> None:
    recorded = Case(case)
    replay = REPLAYS.get(recorded.facts["method"])
    if replay is None:
        pytest.fail(f"{case.name}: no replayer for method {recorded.facts['method']!r}")
    replay(recorded)
    recorded.finish()
    assert recorded.compared > 0, "the replayer compared nothing"
    record_property("compared", recorded.compared)
    print(f"{case.name}: {recorded.compared} comparisons")
