"""Replay every recorded case of a reference implementation, number by number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.golden import replay_dino, replay_mae, replay_vitdet
from tests.golden.case import Case

REPLAYERS: dict[str, Callable[[Case], None]] = {
    "mae": replay_mae.replay,
    "dino": replay_dino.replay,
    "vitdet": replay_vitdet.replay,
}
"""By the case's ``method``."""


def test_replay(case: Path, record_property: Callable[[str, object], None]) -> None:
    recorded = Case(case)
    replayer = REPLAYERS.get(recorded.facts["method"])
    if replayer is None:
        pytest.fail(f"{case.name}: no replayer for method {recorded.facts['method']!r}")
    replayer(recorded)
    recorded.finish()
    assert recorded.compared > 0, "the replayer compared nothing"
    record_property("compared", recorded.compared)
    print(f"{case.name}: {recorded.compared} comparisons")
