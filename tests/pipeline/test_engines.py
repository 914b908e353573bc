"""Snakemake and DVC hold the same DAG: the same commands, with the same files in and out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Node:
    """A job of either engine."""

    inputs: frozenset[str]
    outputs: frozenset[str]


def _run(*command: str) -> str:
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _without_log(command: str) -> str:
    return shlex.join(shlex.split(command.split(" 2> ")[0]))


@pytest.fixture(scope="module")
def snakemake_nodes() -> dict[str, Node]:
    """By command, from what Snakemake says it would run for the target."""
    plan = _run(
        "snakemake", "report", "--dry-run", "--printshellcmds", "--forceall", "--quiet", "host"
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


@pytest.fixture(scope="module")
def dvc_nodes() -> dict[str, Node]:
    """By command, from DVC's own reading of dvc.yaml."""
    from dvc.repo import Repo

    with Repo(str(REPOSITORY)) as repo:
        return {
            _without_log(stage.cmd): Node(
                frozenset(dep.def_path for dep in stage.deps if not hasattr(dep, "params")),
                frozenset(out.def_path for out in stage.outs),
            )
            for stage in repo.index.stages
        }


def test_same_commands(snakemake_nodes: dict[str, Node], dvc_nodes: dict[str, Node]) -> None:
    assert len(dvc_nodes) == 27
    assert snakemake_nodes.keys() == dvc_nodes.keys()


def test_same_files(snakemake_nodes: dict[str, Node], dvc_nodes: dict[str, Node]) -> None:
    everything = {output for node in dvc_nodes.values() for output in node.outputs}
    for command, theirs in dvc_nodes.items():
        node = snakemake_nodes[command]
        assert node.outputs == theirs.outputs, command
        if "steps.report" not in command:
            assert node.inputs == theirs.inputs, command
            continue
        # DVC's templates cannot list the files of all rows: the page depends on their folder, in
        # which the features lie too.
        (folder,) = theirs.inputs
        inside = {path for path in everything if path.startswith(f"{folder}/")}
        assert node.inputs == {path for path in inside if not path.endswith("/features")}


def test_no_engine_below_workflow() -> None:
    for path in (REPOSITORY / "steps").rglob("*.py"):
        found = re.findall(r"^\s*(?:import|from) (snakemake|dvc)\b", path.read_text(), re.M)
        assert not found, f"{path} imports {found}"


def test_stages_track_values_not_files() -> None:
    """A params file is never a plain dependency of either engine: a comment re-plans nothing."""
    from dvc.repo import Repo

    with Repo(str(REPOSITORY)) as repo:
        for stage in repo.index.stages:
            for dep in stage.deps:
                assert hasattr(dep, "params") or not dep.def_path.startswith("params/")
