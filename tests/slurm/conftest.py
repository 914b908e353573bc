"""A Slurm of this machine, for as long as its tests run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Started for the tests, reached by the commands that they run, and stopped after them."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        missing.append("snakemake-executor-plugin-slurm")
    if missing:
        pytest.skip(f"no {', '.join(missing)}: make test-slurm installs what these tests need")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons are started as root")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([HERE / "start", folder], check=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
            patch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
            yield
    finally:
        subprocess.run([HERE / "stop", folder], check=True)
