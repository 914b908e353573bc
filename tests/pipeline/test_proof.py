"""The proof of value: options, nodes, metrics and digests are those of tests/proof.json."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests import proof
from tests.processes import REPOSITORY, environment

REMEDY = (
    "If the change means to do this, record it with `python -m tests.proof --write`, and name each "
    "difference in the commit."
)


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(proof.FILE.read_text())
    return content


@pytest.mark.slow
def test_options_of_every_step(recorded: dict[str, Any]) -> None:
    code = "import json; from tests import proof; print(json.dumps(proof.commands()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = proof.differences(recorded["commands"], json.loads(done.stdout))
    assert not lines, "\n".join([*lines, REMEDY])


@pytest.mark.slow
def test_nodes_of_both_engines(recorded: dict[str, Any]) -> None:
    lines = proof.differences(recorded["nodes"], proof.nodes())
    assert not lines, "\n".join([*lines, REMEDY])


@pytest.mark.slow
def test_metrics_and_digests(recorded: dict[str, Any], tmp_path: Path) -> None:
    found = {
        **{part: recorded[part] for part in ("commands", "nodes")},
        "machine": proof.machine(),
        "results": proof.results(tmp_path),
    }
    lines, uncompared = proof.compare(recorded, found)
    if uncompared:
        warnings.warn(f"not compared: {uncompared}", stacklevel=1)
    assert not lines, "\n".join([*lines, REMEDY])


def test_a_difference_is_said() -> None:
    one = {"a": {"b": 1.0, "c": "x"}, "d": [1]}
    assert proof.differences(one, {"a": {"b": 1.0005, "c": "x"}, "d": [1]}) == [
        "a: b: 1.0, now 1.0005"
    ]
    assert not proof.differences(one, {"a": {"b": 1.0005, "c": "x"}, "d": [1]}, tolerance=1e-3)
    assert proof.differences(one, {"a": {"b": 1.0}, "e": 2}, tolerance=1e-3) == [
        "a: c: gone",
        "d: gone",
        "e: new",
    ]
