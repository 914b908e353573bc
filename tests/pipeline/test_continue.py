"""Continued pretraining: weights are inputs of the graph, runs resume, sets may lack labels."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from steps.artifacts import read_manifest
from tests import engines
from tests.pipeline.runs import Run, run_all
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE, RECIPES, Scenery
from tests.unit.models.official.test_reading import official

Step = Callable[..., subprocess.CompletedProcess[str]]
IMPORTED = {
    "name": "pretrained",
    "format": "mae",
    "checkpoint": "official/mae.pth",
    "backbone": "vit_test",
}


def continued(scenery: Scenery, init: dict[str, Any], **training: Any) -> Path:
    """A recipe of MAE from weights."""
    content = {**RECIPES["mae"], "init": init}
    content["training"] = {**content["training"], "freeze_backbone_epochs": 0.5, **training}
    return scenery.write("recipes/test/continue_mae.yaml", content)


@pytest.mark.slow
def test_the_weights_are_an_input_in_both_engines(scenery: Scenery) -> None:
    folder = scenery.root
    shutil.copytree(REPOSITORY / "params", folder / "params", dirs_exist_ok=True)
    continued(scenery, {"row": "pretrained"})
    for name, init in {
        "continue_artifact": {"artifact": "elsewhere/a backbone"},
        "continue_file": {"timm": "elsewhere/vit.pth"},
        "continue_hub": {"timm": "vit_tiny_patch16_224.augreg_in21k"},
    }.items():
        scenery.write(f"recipes/test/{name}.yaml", {**RECIPES["mae"], "init": init})
    for path in ("elsewhere/a backbone/manifest.json", "elsewhere/vit.pth"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    methods = ["continue_mae", "continue_artifact", "continue_file", "continue_hub"]
    scenery.write(
        "experiments/quickstart.yaml",
        {
            "title": "Continued",
            "question": "Do weights of elsewhere help?",
            "dataset": "shapes",
            "regime": "test",
            "methods": [{"imported": IMPORTED}, *methods],
            "backbones": ["vit_test"],
            "seeds": [0, 1],
            "tasks": {"knn": ["knn"]},
        },
    )
    engines.run(folder, sys.executable, "-m", "workflow.dvc", "quickstart")
    engines.run(folder, "dvc", "init", "--no-scm", "--quiet")
    nodes = engines.dvc_nodes(folder)
    assert nodes == engines.snakemake_nodes(folder)
    starts = {}
    for command, node in nodes.items():
        if "steps.pretrain" in command and "--seed 1" in command:
            (recipe,) = (name for name in methods if f"/{name}.yaml" in command)
            starts[recipe] = node.inputs - {"results/data/shapes"}
            assert ("--init" in command) == bool(starts[recipe])
    assert starts == {
        "continue_mae": {"results/imported/vit_test/pretrained/seed1/backbone"},
        "continue_artifact": {"elsewhere/a backbone"},
        "continue_file": {"elsewhere/vit.pth"},
        "continue_hub": set(),
    }


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(scenery: Scenery) -> None:
    root, data = scenery.root, scenery.images()
    torch.save(official("mae"), root / "mae.pth")
    size = {"patch_size": 4, "model_args": {**BACKBONE["model_args"], "num_heads": 3}}
    scenery.write("backbones/vit_test.yaml", {**BACKBONE, **size})
    start = ["--format", "mae", "--checkpoint", str(root / "mae.pth"), "--name", "pretrained"]
    start += ["--backbone", str(scenery.backbone), "--out", str(root / "start")]
    knn = {"every_epochs": 1, "train": 24, "val": 16, "k": 1}
    recipe = continued(
        scenery,
        {"artifact": str(root / "start")},
        epochs=3,
        batch_size=24,
        max_batch_per_device=24,
        checkpoint_seconds=60.0,
        knn=knn,
        log_every=1,
    )

    def pretrain(folder: str, stop: int | None = None) -> Run:
        arguments = scenery.pretrain_arguments(recipe, data, root / folder / "out")
        return Run(str(root / folder), "pretrain", arguments, stop)

    runs = [Run(str(root), "import", start), pretrain("whole")]
    run_all([*runs, pretrain("killed", stop=2), pretrain("killed")], root)
    whole, resumed = (read_manifest(root / name / "out") for name in ("whole", "killed"))
    assert resumed.digest == whole.digest
    assert resumed.facts["init"] == whole.facts["init"]
    lines = (root / "killed/out/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_set_without_labels_trains_without_the_watch(scenery: Scenery, step: Step) -> None:
    for split, count in (("train", 16), ("val", 4)):
        for index in range(count):
            path = scenery.root / f"photos/{split}/{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    plain = {"format": "images", "train": "photos/train", "val": "photos/val"}
    file, data = scenery.write("datasets/plain.yaml", plain), scenery.root / "results/data/plain"
    options = ("--dataset", file, "--out", data)
    done = step("prepare", *options, env={"PRETEXT_DATA": str(scenery.root)})
    assert done.returncode == 0, done.stderr
    knn = {"every_epochs": 1, "train": 8, "val": 4, "k": 1}
    recipe = scenery.recipe("mae", epochs=1, batch_size=8, max_batch_per_device=8, knn=knn)
    out = scenery.root / "out"
    done = step("pretrain", *scenery.pretrain_arguments(recipe, data, out))
    assert done.returncode == 0, done.stderr
    said = f"{data} has no labels: k-NN during training (training.knn) is left out"
    assert done.stderr.count(said) == 1
    assert "knn_top1" not in (out / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "continue_mae.yaml: init: row pretrained, but no --init is given"),
        (["--init", "params"], "params is a folder without manifest.json, so no artifact"),
    ],
)
def test_weights_that_are_missing(
    given: list[str], message: str, scenery: Scenery, step: Step
) -> None:
    recipe, out = continued(scenery, {"row": "pretrained"}), scenery.root / "out"
    done = step("pretrain", *scenery.pretrain_arguments(recipe, scenery.images(), out), *given)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()
