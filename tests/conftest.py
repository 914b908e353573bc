"""What all tests share: small prepared sets, params trees, and running a step as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.scenery import Scenery

REPOSITORY = Path(__file__).resolve().parents[1]


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
        command: Sequence[str] = [sys.executable, "-m", f"steps.{node}"]
        if processes > 1:
            command = [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *(f"--nproc-per-node={processes}", "-m", f"steps.{node}"),
            ]
        return subprocess.run(
            [*command, *(str(argument) for argument in arguments)],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
                **(env or {}),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return run
