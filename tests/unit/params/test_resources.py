"""What jobs ask of a scheduler: every regime says so, and the rules pass it on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from steps.command import UserError
from steps.params.checks import load_plan
from steps.params.load import load
from steps.params.tasks import NodeName, Resources, ResourceTable
from tests.processes import REPOSITORY
from tests.scenery import Scenery

BIN = Path(sys.executable).parent
REGIMES = sorted(path.name for path in (REPOSITORY / "params/recipes").iterdir())
PROFILES = REPOSITORY / "workflow/profiles"


@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_has_a_table(regime: str) -> None:
    table = load(REPOSITORY / f"params/resources/{regime}.yaml", ResourceTable)
    for node in get_args(NodeName):
        assert {"mem_mb", "runtime"} <= table.of(node).asked().keys()


def test_a_node_without_a_row_has_the_default() -> None:
    table = ResourceTable({"default": Resources(runtime=5), "pretrain": Resources(gpu=1)})
    assert table.of("knn").asked() == {"runtime": 5}
    assert table.of("pretrain").asked() == {"gpu": 1}


def test_a_misspelt_node_is_refused(scenery: Scenery) -> None:
    file = scenery.write("resources/test.yaml", {"pretrian": {"gpu": 1}})
    with pytest.raises(UserError, match=rf"{re.escape(str(file))}: pretrian"):
        load(file, ResourceTable)


def test_more_than_one_gpu_is_refused(scenery: Scenery) -> None:
    file = scenery.write("resources/test.yaml", {"pretrain": {"gpu": 2}})
    with pytest.raises(UserError, match=r"pretrain\.gpu"):
        load(file, ResourceTable)


def test_the_rules_ask_for_what_the_table_says() -> None:
    plan = load_plan("imagenet", REPOSITORY / "params")
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = ["snakemake", "report", "-n", "--forceall", "--quiet", "host", "--cores", "64"]
    command += ["--config", "experiment=imagenet"]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rules = set()
    jobs = re.split(r"^rule (\w+):$", done.stdout, flags=re.M)[1:]
    for name, block in zip(jobs[::2], jobs[1::2], strict=True):
        if name == "report":  # a target, which runs nothing
            continue
        wanted = plan.resources.of(name)
        said = dict(re.findall(r"(\w+)=(\w+)", re.search(r"resources: (.*)", block).group(1)))
        threads = re.search(r"threads: (\d+)", block)
        assert int(threads.group(1) if threads else 1) == wanted.threads, name
        asked = {key: str(value) for key, value in wanted.asked().items()}
        assert {key: said.get(key) for key in ("gpu", "mem_mb", "runtime") if key in said} == asked
        rules.add(name)
    assert {"prepare", "pretrain", "features", "detect", "page"} <= rules


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_profiles_agree_on_what_runs_again(name: str) -> None:
    default, other = (
        yaml.safe_load((PROFILES / profile / "config.yaml").read_text())
        for profile in ("default", name)
    )
    own = {"cores"}  # of the machine
    assert {key: other.get(key) for key in default.keys() - own} == {
        key: default[key] for key in default.keys() - own
    }
    assert not own & other.keys(), "a bound on the cores of all jobs together"
