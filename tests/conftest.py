"""What all tests share: small prepared sets, params trees, and running a step as a user does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import command, environment
from tests.scenery import Scenery


@pytest.fixture
def scenery(tmp_path: Path) -> Scenery:
    """A params tree and prepared sets, small enough for seconds."""
    return Scenery(tmp_path)


@pytest.fixture
def step(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m steps.<node>`` from ``tmp_path``, with one thread."""

    def run(
        node: str, *arguments: object, processes: int = 1, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(f"steps.{node}", *arguments, processes=processes),
            cwd=tmp_path,
            env=environment(**(env or {})),
            capture_output=True,
            text=True,
            check=False,
        )

    return run
