"""Rows of one budget, run by the commands that both engines have (test_engines.py)."""

from __future__ import annotations

import importlib
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from steps.artifacts import Manifest, read_manifest
from steps.budget import LENGTHS
from steps.command import UserError
from steps.core.schedules import Progress, learning_rate
from steps.params.checks import load_plan
from steps.params.plan import Plan
from tests.processes import REPOSITORY
from tests.project import tiny
from tests.scenery import TOKENIZERS, Scenery
from workflow.dvc import Stages

TFLOPS = 0.0018
BATCHES = {"mae": 22, "dino": 2, "dinov2": 8, "beit2": 12}


@pytest.fixture
def plan(scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Rows without training, with a final phase, on a tokenizer with a teacher."""
    monkeypatch.chdir(scenery.root)
    quick = {"checkpoint_seconds": 60.0, "log_every": 10}
    for name, batch in BATCHES.items():
        scenery.recipe(name, batch_size=batch, max_batch_per_device=batch, knn=None, **quick)
    teacher = {"recipe": "dino", "backbone": "vit_test"}
    training = {**TOKENIZERS["vqkd"]["training"], **quick}
    vqkd = {**TOKENIZERS["vqkd"], "teacher": teacher, "training": training}
    scenery.write("tokenizers/test/vqkd.yaml", vqkd)
    scenery.images(train=48)
    knn = {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"}
    scenery.write("protocols/knn.yaml", knn)
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    experiment = {
        "title": "Budget",
        "question": "?",
        "dataset": "noise",
        "regime": "test",
        "methods": ["random", "mae", "dinov2", "beit2"],
        "budget": {"tflops": TFLOPS},
        "backbones": ["vit_test"],
        "seeds": [0],
        "tasks": {"knn": ["knn"]},
    }
    scenery.write("experiments/test.yaml", experiment)
    return load_plan("test", Path("params"))


def _run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, module, *arguments = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    importlib.import_module(module).main()


def _total(manifest: Manifest) -> float:
    facts: dict[str, Any] = manifest.facts
    return (facts["flops"] + facts.get("behind", {"flops": 0})["flops"]) / 1e12


@pytest.mark.slow
def test_every_row_is_within_two_percent(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {}
    lengths: dict[str, Any] = {}
    for stage in Stages(plan).all():
        if stage.step == "budget":
            # Before anything is trained; its lengths are compared with those of the runs.
            assert not Path("results/pretrained").exists()
            _run(stage.command, monkeypatch)
            lengths = json.loads(Path(stage.results[0], LENGTHS).read_bytes())
        if stage.step in ("pretrain", "tokenizer"):
            _run(stage.command, monkeypatch)
            made[stage.results[0].split("/")[-3]] = read_manifest(Path(stage.results[0]))
    assert {name: manifest.facts["flops"] > 0 for name, manifest in made.items()} == {
        "random": False,
        "mae-0.0018tflops": True,
        "dinov2-0.0018tflops": True,
        "dino-0.0002tflops": True,
        "vqkd-0.0006tflops": True,
        "beit2-0.0018tflops": True,
    }
    for name, manifest in made.items():
        if name != "random":
            budget = manifest.params["budget"]["tflops"]
            assert name.endswith(f"-{budget:g}tflops")
            assert _total(manifest) == pytest.approx(budget, rel=0.02), name
    found = {name.removeprefix("tokenizer ").split(" on ")[0]: run for name, run in lengths.items()}
    assert {name: run["length"] for name, run in found.items()} == {
        name: manifest.facts["length"] for name, manifest in made.items() if name != "random"
    }
    # Two thirds of a row that stands on something are its own.
    own = {name: manifest.facts["flops"] / 1e12 for name, manifest in made.items()}
    assert own["beit2-0.0018tflops"] == pytest.approx(0.0012, rel=0.02)
    assert own["vqkd-0.0006tflops"] == pytest.approx(0.0004, rel=0.02)
    # A final phase is of the same part of the run as in the recipe: 0.5 epochs beside 1.5.
    steps = _steps(made["dinov2-0.0018tflops"], 8)
    assert steps / 6 == pytest.approx(2 * made["dinov2-0.0018tflops"].facts["length"], abs=0.2)
    # Epochs need not be whole, and the schedule ends where the run does.
    mae = made["mae-0.0018tflops"]
    assert _steps(mae, 22) % 2 != 0
    row = Path("results/pretrained/noise/test/vit_test/mae-0.0018tflops/seed0")
    lines = (row / "backbone/metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert last["epoch"] == pytest.approx(_steps(mae, 22) / 2)
    recipe = plan.recipes["mae"].training
    assert recipe is not None
    steps = _steps(mae, 22)
    at = Progress(steps - 1, steps / recipe.epochs, steps)
    peak = recipe.optimizer.peak_lr(22)
    assert last["lr"] == pytest.approx(learning_rate(at, recipe.schedule, peak))
    assert last["lr"] < 0.01 * peak


def test_every_run_that_the_budget_does_not_suit_is_named(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = yaml.safe_load(plan.file.read_text())
    plan.file.write_text(yaml.safe_dump({**experiment, "budget": {"images": 60}}))
    (stage,) = [
        each for each in Stages(load_plan("test", Path("params"))).all() if each.step == "budget"
    ]
    with pytest.raises(UserError, match=r"beit2.yaml: within 60 images, of which 40 are its own"):
        _run(stage.command, monkeypatch)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": within")[0] for line in said if line.startswith("error: ")] == [
        *(f"error: params/recipes/test/{name}.yaml" for name in ("mae", "dinov2", "dino")),
        "error: params/tokenizers/test/vqkd.yaml",
    ]
    assert not Path("results/budgets").exists()


def test_lengths_on_another_set_are_refused(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = yaml.safe_load(plan.file.read_text())
    shutil.copy("params/datasets/noise.yaml", "params/datasets/other.yaml")
    plan.file.write_text(yaml.safe_dump({**experiment, "dataset": "other"}))
    with pytest.raises(UserError, match=r"'noise', and .*test.yaml pretrains on 'other'"):
        _run(
            "python -m steps.budget --experiment params/experiments/test.yaml"
            " --data results/data/noise --out results/budgets/test",
            monkeypatch,
        )


def test_an_experiment_without_a_budget_has_no_lengths(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = yaml.safe_load(plan.file.read_text())
    del experiment["budget"]
    plan.file.write_text(yaml.safe_dump(experiment))
    assert "budget" not in {each.step for each in Stages(load_plan("test", Path("params"))).all()}
    with pytest.raises(
        UserError, match=r"test.yaml: has no budget \| allowed: an experiment within"
    ):
        _run(
            "python -m steps.budget --experiment params/experiments/test.yaml"
            " --data results/data/noise --out results/budgets/test",
            monkeypatch,
        )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["snakemake", "dvc"])
def test_a_budget_below_a_warm_up_is_refused_before_anything_trains(
    scenery: Scenery, engine: str
) -> None:
    project = tiny(scenery)
    file = scenery.params / "experiments/quickstart.yaml"
    experiment = yaml.safe_load(file.read_text())
    small = {"budget": {"images": 80}, "methods": ["random", "mae"]}
    file.write_text(yaml.safe_dump({**experiment, **small}))
    if engine == "snakemake":
        *_, log, error = project.run(
            *("snakemake", "--snakefile", str(REPOSITORY / "workflow/Snakefile")),
            *("--profile", str(REPOSITORY / "workflow/profiles/default")),
            *("report", "--cores", "1"),
            status=1,
        ).splitlines()
        assert log == "budget failed; its log: logs/budgets/quickstart.log"
    else:
        project.dvc()
        said = project.run("dvc", "repro", status=255)
        (error,) = [line for line in said.splitlines() if line.startswith("error: params")]
    assert "within 80 images it trains for 0.833 epochs, less than its warm-up" in error
    assert not (project.root / "results/pretrained").exists()


def _steps(manifest: Manifest, batch: int) -> int:
    return int(manifest.facts["images_seen"]) // batch
