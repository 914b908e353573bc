"""A module of this repository as processes of their own, as a user starts it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def command(module: str, *arguments: object, processes: int = 1) -> list[str]:
    """``python -m module arguments``, under torchrun where it is several processes."""
    python = [sys.executable, "-m"]
    if processes > 1:
        python += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [*python, module, *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    """This process's variables, changed: the repository is found first, one thread, no GPU."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *_python_path()]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        **changes,
    }


def _python_path() -> list[str]:
    """Folders where this process's packages may be, from PYTHONPATH."""
    return [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
