"""Weights that a pretraining keeps along its way, as rows of their own."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.artifacts import read_manifest
from steps.artifacts.manifest import MANIFEST, digest_file
from steps.command import UserError
from steps.params.checks import load_plan
from tests.pipeline.runs import Run, run_all
from tests.scenery import Scenery
from workflow.dvc import Stages

Step = Callable[..., subprocess.CompletedProcess[str]]

CONSTANT: dict[str, Any] = {
    "optimizer": {"name": "adamw", "lr": 1e-3, "lr_batch": None, "weight_decay": 0.05},
    "schedule": {"warmup_epochs": 0, "min_lr": 1e-3},
    "log_every": 4,
    "knn": None,
}
"""A learning rate that stays as it is, so that a short run is the first part of a longer one."""
WEIGHTS = "model.safetensors"
EXPERIMENT: dict[str, Any] = {
    "title": "Kept",
    "question": "What does longer training buy?",
    "dataset": "noise",
    "regime": "test",
    "methods": ["random", "mae"],
    "backbones": ["vit_test"],
    "seeds": [0],
    "tasks": {"knn": ["knn"], "linear": ["linear"]},
}


def _pretraining(scenery: Scenery, data: Path, name: str, stop: int | None = None) -> Run:
    folder = scenery.root / name
    recipe = folder / "mae.yaml"
    folder.mkdir(exist_ok=True)
    recipe.write_text((scenery.params / "recipes/test/mae.yaml").read_text())
    arguments = scenery.pretrain_arguments(recipe, data, folder / "backbone")
    return Run(str(folder), "pretrain", arguments, stop)


def _kept(scenery: Scenery, name: str, epoch: str) -> Run:
    folder = scenery.root / name
    given = ["--backbone", str(folder / "backbone"), "--epoch", epoch]
    return Run(str(folder), "kept", [*given, "--out", str(folder / f"mae-e{epoch}")])


@pytest.mark.slow
def test_weights_kept_are_those_of_that_epoch(scenery: Scenery) -> None:
    """Under one rate they equal a run of that length, and keeping them changes nothing else."""
    data = scenery.images(train=48)
    runs = []
    for name, changes in {
        "none": {"epochs": 3},
        "two": {"epochs": 2},
        "half": {"epochs": 0.5},
        "three": {"epochs": 3, "keep_epochs": [0.5, 2]},
    }.items():
        scenery.recipe("mae", **CONSTANT, **changes)
        runs.append(_pretraining(scenery, data, name))
    # Killed after the first kept weights, before the second, and again after those.
    runs += [_pretraining(scenery, data, "killed", stop) for stop in (5, 8, None)]
    runs += [_kept(scenery, name, epoch) for name in ("three", "killed") for epoch in ("0.5", "2")]
    run_all(runs, scenery.root)
    root = scenery.root
    for name, path in {
        "none": "three/backbone",
        "two": "three/mae-e2",
        "half": "three/mae-e0.5",
    }.items():
        assert digest_file(root / name / "backbone" / WEIGHTS) == digest_file(root / path / WEIGHTS)
    for path in ("backbone", "mae-e0.5", "mae-e2"):
        digests = {read_manifest(root / name / path).digest for name in ("three", "killed")}
        assert len(digests) == 1, path
    # Their length, cost and metrics are those up to there, as of the shorter run.
    for name, path, steps in (("two", "mae-e2", 12), ("half", "mae-e0.5", 3)):
        alone, kept = (read_manifest(root / each) for each in (f"{name}/backbone", f"three/{path}"))
        counts = ("epochs", "images_seen", "flops", "method", "kind", "backbone", "collapsed")
        assert {key: kept.facts[key] for key in counts} == {key: alone.facts[key] for key in counts}
        assert kept.facts["recipe"] == path
        assert kept.seed == 0
        whole = read_manifest(root / "three/backbone")
        assert 0 < kept.facts["device_seconds"] < whole.facts["device_seconds"]
        assert kept.inputs == {"pretraining": whole.digest}
        lines = [
            json.loads(line)
            for line in (root / "three" / path / "metrics.jsonl").read_text().splitlines()
        ]
        assert lines[-1]["step"] == steps
    assert sorted(file.name for file in (root / "three/mae-e2").iterdir()) == [
        *("config.json", "heads.safetensors", MANIFEST, "metrics.jsonl", WEIGHTS, "timing.jsonl")
    ]


@pytest.mark.slow
def test_several_processes_keep_the_same_weights(scenery: Scenery) -> None:
    data = scenery.images(train=48)
    runs: dict[str, list[Run]] = {}
    for layout in ("ddp", "fsdp"):
        scenery.recipe("mae", **CONSTANT, epochs=1, keep_epochs=[0.5], strategy=layout)
        one, two = f"{layout}-one", f"{layout}-two"
        runs.setdefault("one", []).append(_pretraining(scenery, data, one))
        runs.setdefault("two", []).append(_pretraining(scenery, data, two))
        runs.setdefault("kept", []).extend(_kept(scenery, each, "0.5") for each in (one, two))
    run_all(runs["one"], scenery.root)
    run_all(runs["two"], scenery.root, processes=2)
    run_all(runs["kept"], scenery.root)
    from safetensors.torch import load_file

    first, *others = (
        load_file(scenery.root / f"{layout}-{processes}/mae-e0.5" / WEIGHTS)
        for layout in ("ddp", "fsdp")
        for processes in ("one", "two")
    )
    for other in others:
        assert first.keys() == other.keys()
        for name, tensor in first.items():
            assert (tensor - other[name]).abs().max() < 1e-4, name


@pytest.mark.slow
@pytest.mark.parametrize("budget", [None, {"images": 96}])
def test_kept_weights_are_rows_of_the_page(
    scenery: Scenery, budget: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenery.root)
    scenery.images(train=48, val=16)
    scenery.recipe("mae", **CONSTANT, epochs=4, keep_epochs=[1, 2])
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    knn = {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"}
    scenery.write("protocols/knn.yaml", knn)
    experiment = {**EXPERIMENT, "tasks": {"knn": ["knn"]}}
    if budget is not None:
        experiment["budget"] = budget
    scenery.write("experiments/test.yaml", experiment)
    plan = load_plan("test", Path("params"))
    row = "mae" if budget is None else "mae-96images"
    assert plan.experiment.names == ["random", f"{row}-e1", f"{row}-e2", row]
    assert [node.recipe for node in plan.needs] == ["random", row]  # type: ignore[union-attr]
    for stage in Stages(plan).all():
        if stage.step != "prepare":
            _, _, module, *arguments = shlex.split(stage.command)
            monkeypatch.setattr(sys, "argv", [module, *arguments])
            importlib.import_module(module).main()
    page = Path("reports/test/README.md").read_text()
    ranking = page.split("\n## ")[0]
    # Epochs of the recipe scale with the budget like everything else that is given in epochs.
    scale = 1 if budget is None else 0.5
    for name, epochs in (("mae-e1", 1), ("mae-e2", 2), ("mae", 4)):
        (line,) = (each for each in ranking.splitlines() if each.startswith(f"| {name} "))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert f"{epochs * scale:g}" in cells, line
        assert f"{epochs * scale * 48:g}" in cells, line
    assert "`training.keep_epochs`): mae-e1 of mae, mae-e2 of mae." in ranking
    assert "Compute is unequal" not in ranking
    verdict = ranking.split("**Verdict.**")[1].split("\n\n")[0]
    assert "mae-e" not in verdict
    curves = Path("reports/test/curves.csv").read_text()
    assert row in curves
    assert f"{row}-e1" not in curves
    files = json.loads(Path("reports/test/report.json").read_text())
    assert files["kept"] == {f"{row}-e1": row, f"{row}-e2": row}


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ([1, 1], "must be in increasing order, each once"),
        ([1.5, 1], "must be in increasing order, each once"),
        ([2], "the run ends after 2 epochs, whose weights are kept anyway"),
        ([0.123456789], "at most six digits are allowed in a row's name"),
        ([0], "greater than 0"),
    ],
)
def test_epochs_that_cannot_be_kept_are_refused_before_any_work(
    scenery: Scenery, keep: list[float], said: str
) -> None:
    scenery.recipe("mae", keep_epochs=keep)
    scenery.write("experiments/test.yaml", EXPERIMENT)
    with pytest.raises(UserError, match=said) as error:
        load_plan("test", scenery.params)
    assert "recipes/test/mae.yaml" in str(error.value)


def test_a_row_that_has_the_name_of_a_recipe_is_refused(scenery: Scenery) -> None:
    scenery.recipe("mae", keep_epochs=[1])
    scenery.write("recipes/test/mae-e1.yaml", {"method": {"name": "random"}})
    scenery.write("experiments/test.yaml", EXPERIMENT)
    with pytest.raises(UserError, match=r"would be called mae-e1, as the recipe .*mae-e1\.yaml is"):
        load_plan("test", scenery.params)


def test_epochs_that_end_with_one_step_are_refused(scenery: Scenery, step: Step) -> None:
    data = scenery.images(train=48)
    recipe = scenery.recipe("mae", keep_epochs=[0.51, 0.52])
    done = step("pretrain", *scenery.pretrain_arguments(recipe, data, scenery.root / "out"))
    assert done.returncode == 2
    assert "training.keep_epochs: epoch 0.52 ends after step 3 of 12, as epoch 0.51 does" in (
        done.stderr
    )
    assert not (scenery.root / "out").exists()


def test_an_epoch_that_was_not_kept_is_named(scenery: Scenery, step: Step) -> None:
    data = scenery.images(train=16)
    out = scenery.root / "out"
    recipe = scenery.recipe("mae", keep_epochs=[1, 1.5], knn=None)
    assert step("pretrain", *scenery.pretrain_arguments(recipe, data, out)).returncode == 0
    done = step("kept", "--backbone", out, "--epoch", "3", "--out", scenery.root / "kept")
    assert done.returncode == 2
    assert "--epoch 3: " in done.stderr
    assert "kept no weights of that epoch" in done.stderr
    assert "epoch 1, 1.5" in done.stderr
    assert not (scenery.root / "kept").exists()


@pytest.mark.parametrize("kind", ["finetune", "tokenizer"])
def test_only_pretrainings_keep_weights(scenery: Scenery, kind: str) -> None:
    if kind == "tokenizer":
        file = scenery.tokenizer("dalle", keep_epochs=[1])
        experiment = {**EXPERIMENT, "methods": ["random", "beit"]}
    else:
        training = {**CONSTANT, "epochs": 2, "batch_size": 8, "max_batch_per_device": 8}
        training |= {"keep_epochs": [1], "views": [{"area": [0.4, 1.0]}]}
        method = {"name": "supervised", "pooling": "mean"}
        content = {"method": method, "training": training, "crop_fraction": 1.0}
        file = scenery.write("protocols/finetune.yaml", content)
        experiment = {**EXPERIMENT, "tasks": {"finetune": ["finetune"]}}
    scenery.write("experiments/test.yaml", experiment)
    scenery.write("datasets/noise.yaml", {"format": "folder", "train": "t", "val": "v"})
    with pytest.raises(UserError, match="keep_epochs makes rows of pretraining") as error:
        load_plan("test", scenery.params)
    assert file.name in str(error.value)
