"""The nodes of an experiment as each engine lists them: commands, with files in and out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.processes import REPOSITORY

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Node:
    """A job of either engine."""

    inputs: frozenset[str]
    outputs: frozenset[str]


def run(folder: Path, *command: str, status: int = 0) -> str:
    """Run a command of an engine; what it said."""
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def snakemake_nodes(folder: Path, experiment: str = "quickstart") -> dict[str, Node]:
    """By command, from what Snakemake says it would run for the target."""
    plan = run(
        folder,
        *("snakemake", "report", "--snakefile", str(REPOSITORY / "workflow/Snakefile")),
        *("--dry-run", "--printshellcmds", "--forceall", "--quiet", "host"),
        *("--config", f"experiment={experiment}"),
    )
    nodes = {}
    for block in re.split(r"^(?:local)?rule \w+:$", plan, flags=re.M)[1:]:
        fields = dict(re.findall(r"^    (input|output): (.*)$", block, flags=re.M))
        command = re.search(r"^Shell command: (.*)$", block, flags=re.M)
        if command is not None and "output" in fields:  # the target itself makes nothing
            nodes[_without_log(command.group(1))] = Node(
                frozenset(fields.get("input", "").split(", ")) - {""},
                frozenset(fields["output"].split(", ")),
            )
    return nodes


def dvc_nodes(folder: Path) -> dict[str, Node]:
    """By command, from DVC's own reading of dvc.yaml."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        return {
            _without_log(stage.cmd): Node(
                frozenset(dep.def_path for dep in stage.deps if not hasattr(dep, "params")),
                frozenset(out.def_path for out in stage.outs),
            )
            for stage in repo.index.stages
        }


def _without_log(command: str) -> str:
    return shlex.join(shlex.split(command.split(" 2>> ")[0]))
