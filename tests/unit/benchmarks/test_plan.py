"""The experiment whose planning is timed is one that can be planned."""

from __future__ import annotations

from pathlib import Path

from benchmarks.plan import BACKBONES, write_experiment
from steps.params.checks import load_plan
from tests.processes import REPOSITORY


def test_every_method_is_planned(tmp_path: Path) -> None:
    params = tmp_path / "params"
    plan = load_plan(write_experiment(params), params)
    methods = {path.stem for path in (REPOSITORY / "steps/methods").glob("*.py")} | {"random"}
    names = {recipe.method.name for recipe in plan.recipes.values()}
    assert len(list(plan.rows())) == BACKBONES * len(plan.experiment.methods)
    assert {"mae", "clip", "beit2", "dilemma"} <= names <= methods
