"""Several runs of steps in one interpreter, whose start takes longer than runs of tests' size.

    python -m tests.pipeline.runs FILE          # or under torchrun, in several processes

FILE is JSON: a list of ``Run``. Each calls the step's own ``main``.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.core.distributed import rank
from steps.engine.monitor import Monitor
from tests.processes import command, environment


@dataclass
class Run:
    """A step to run."""

    folder: str
    """Where it runs, and has its scratch folder."""
    node: str
    arguments: list[str]
    stop: int | None = None
    """After so many updates the first process alone gets SIGTERM, and the run ends with 143."""


def run_all(runs: Sequence[Run], folder: Path, processes: int = 1, **variables: str) -> None:
    """Run them, one after another, in new processes. A run that fails fails the test.

    Args:
        runs: what to run.
        folder: where their list is written.
        processes: that train each of them.
        variables: of the environment, changed.
    """
    file = folder / "runs.json"
    file.write_text(json.dumps([dataclasses.asdict(run) for run in runs]))
    done = subprocess.run(
        command("tests.pipeline.runs", file, processes=processes),
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _run(run: Run) -> None:
    os.makedirs(run.folder, exist_ok=True)
    os.chdir(run.folder)
    sys.argv = [f"steps.{run.node}", *run.arguments]
    step: Any = importlib.import_module(f"steps.{run.node}")
    stepped, count = Monitor.stepped, 0

    def stop_after(monitor: Monitor, *arguments: Any) -> None:
        nonlocal count
        count += 1
        stepped(monitor, *arguments)
        if count == run.stop and rank() == 0:
            signal.raise_signal(signal.SIGTERM)

    Monitor.stepped = stop_after  # type: ignore[method-assign]
    try:
        step.main()
    except SystemExit as end:
        if run.stop is None or end.code != 128 + signal.SIGTERM:
            raise
    finally:
        Monitor.stepped = stepped  # type: ignore[method-assign]


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        print(each["folder"], file=sys.stderr)
        _run(Run(**each))
