"""The experiments on ImageNet-1K, on a machine that has none: a plan, then what to put where."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.params.checks import load_plan
from tests.processes import REPOSITORY

Step = Callable[..., subprocess.CompletedProcess[str]]
PARAMS = REPOSITORY / "params"


@pytest.mark.parametrize("experiment", ["imagenet", "imagenet_large"])
def test_it_plans_without_any_data(experiment: str, tmp_path: Path) -> None:
    plan = load_plan(experiment, PARAMS)
    command = [
        *(sys.executable, "-m", "snakemake", "report", "--dry-run", "--quiet", "host"),
        *("--snakefile", str(REPOSITORY / "workflow/Snakefile"), "--config"),
        *(f"experiment={experiment}", f"params={PARAMS}", f"data_root={tmp_path}"),
    ]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", said, re.M))
    rows = len(list(plan.rows()))
    for task, protocols in plan.experiment.tasks.items():
        assert int(counts[task]) == rows * len(protocols), task
    assert int(counts["prepare"]) == 2
    assert int(counts["imported"]) == len(plan.experiment.imported)


def test_every_method_has_a_row() -> None:
    plan = load_plan("imagenet", PARAMS)
    methods = {recipe.method.name for recipe in plan.recipes.values()}
    methods |= {each.format for each in plan.experiment.imported.values()}
    files = {path.stem for path in (REPOSITORY / "steps/methods").glob("*.py")}
    published = {"simclr", "mocov3", "clip", "dino", "ibot", "dinov2", "mae", "beit", "beit2"}
    published |= {"droppos", "mp3", "dilemma", "supervised"}
    assert published <= files
    assert methods == published | {"random"}


@pytest.mark.parametrize(
    ("node", "arguments", "missing", "remedy"),
    [
        (
            "prepare",
            ("--dataset", PARAMS / "datasets/imagenet1k.yaml"),
            "imagenet/train: no such folder",
            "put one folder of images for each class there",
        ),
        (
            "prepare",
            ("--dataset", PARAMS / "datasets/coco2017.yaml"),
            "coco/images/train2017: no such folder",
            "put the split's image files there",
        ),
        (
            "import",
            (
                *("--name", "clip_official", "--backbone", PARAMS / "backbones/vit_b16.yaml"),
                *load_plan("imagenet", PARAMS).experiment.imported["clip_official"].options,
            ),
            "official/ViT-B-16.pt: no such file",
            "put it there",
        ),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, step: Step, node: str, arguments: tuple[object, ...], missing: str, remedy: str
) -> None:
    env = {"PRETEXT_DATA": str(tmp_path / "data")}
    done = step(node, *arguments, "--out", tmp_path / "out", env=env)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{tmp_path}/data/{missing}" in line
    assert remedy in line
    assert "PRETEXT_DATA" in line
