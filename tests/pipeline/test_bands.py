"""Images of four bands of 16 bits, from files to the page."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import timm
import torch

from steps.artifacts import read_manifest, read_records
from tests.project import Project, tiny
from tests.scenery import RECIPES, Scenery
from tests.unit.test_init import artifact

Step = Callable[..., subprocess.CompletedProcess[str]]
METHODS = ("mae", "dino", "simclr")
BANDS: dict[str, Any] = {"channels": 4, "bits": 16}
FIELDS = {"format": "folder", "train": "fields/train", "val": "fields/val", **BANDS}
EXPERIMENT = {
    "title": "Fields",
    "question": "Do methods train on four bands of 16 bits?",
    "dataset": "fields",
    "regime": "test",
    "methods": [*METHODS],
    "backbones": ["vit_test"],
    "seeds": [0],
    "tasks": {"knn": ["knn"], "linear": ["linear"]},
    "pictures": ["mae"],
}


def fields(folder: Path, count: int, seed: int, classes: int = 2, bands: int = 4) -> None:
    """Noise whose fourth band tells the class; values use 12 of the 16 bits, as sensors do."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        label = index % classes
        pixels = rng.normal(1500, 300, (bands, 40, 44))
        pixels[-1] += 600 * label
        place = folder / f"class{label}" / f"{index}.tif"
        place.parent.mkdir(parents=True, exist_ok=True)
        values = pixels.clip(0, 4095).astype(np.uint16)
        tifffile.imwrite(place, values, photometric="minisblack", planarconfig="separate")


def colourless(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without operations that need red, green and blue."""
    views = [dict(view) for view in recipe["training"]["views"]]
    for view in views:
        for key in ("grayscale", "solarize"):
            view.pop(key, None)
        if "jitter" in view:
            view["jitter"] = {**view["jitter"], "saturation": 0.0, "hue": 0.0}
    return {**recipe, "training": {**recipe["training"], "views": views}}


def _project(scenery: Scenery) -> Project:
    project = tiny(scenery)
    fields(project.root / "data/fields/train", 48, seed=0)
    fields(project.root / "data/fields/val", 16, seed=1)
    scenery.write("datasets/fields.yaml", FIELDS)
    scenery.write("experiments/quickstart.yaml", EXPERIMENT)
    for name in METHODS:
        scenery.write(f"recipes/test/{name}.yaml", colourless(RECIPES[name]))
    return project


@pytest.mark.slow
def test_four_bands_of_16_bits_from_files_to_the_page(scenery: Scenery) -> None:
    project = _project(scenery)
    project.snakemake()
    root = project.root
    prepared = read_manifest(root / "results/data/fields")
    assert (prepared.facts["channels"], prepared.facts["bits"]) == (4, 16)
    assert len(prepared.facts["mean"]) == 4
    assert prepared.facts["mean"][0] == pytest.approx(1500 / 65535, rel=0.01)
    assert prepared.params["channels"] == 4
    for name in METHODS:
        row = root / f"results/pretrained/fields/test/vit_test/{name}/seed0"
        backbone = read_manifest(row / "backbone")
        assert (backbone.facts["channels"], backbone.facts["bits"]) == (4, 16)
        # timm loads it plainly, first layer included.
        model = timm.create_model(f"local-dir:{row / 'backbone'}", pretrained=True).eval()
        assert model.patch_embed.proj.weight.shape[1] == 4
        assert model(torch.zeros(1, 4, 32, 32)).isfinite().all()
        for task in ("knn", "linear"):
            (found,) = row.glob(f"{task}/**/{task}.json")
            records, _ = read_records(found)
            assert all(0 <= record.value <= 100 for record in records)
        log = [json.loads(line) for line in (row / "backbone/metrics.jsonl").open()]
        assert all(np.isfinite(line["loss"]) for line in log if "loss" in line)
    page = (root / "reports/quickstart/README.md").read_text()
    assert "Channels shown: the first three" in page


@pytest.mark.slow
def test_weights_for_photographs_go_on_with_four_bands(
    scenery: Scenery, step: Step, tmp_path: Path
) -> None:
    fields(tmp_path / "data/fields/train", 16, seed=0)
    fields(tmp_path / "data/fields/val", 8, seed=1)
    dataset = scenery.write("datasets/fields.yaml", FIELDS)
    data, out = tmp_path / "prepared", tmp_path / "out"
    done = step("prepare", "--dataset", dataset, "--out", data)
    assert done.returncode == 0, done.stderr

    network = ("--backbone", scenery.backbone, "--data", data, "--seed", 0, "--out", out)
    coloured = scenery.params / "recipes/test/simclr.yaml"
    done = step("pretrain", "--recipe", coloured, *network)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()[-1:]
    assert "simclr.yaml: training.views[0].jitter: of saturation 0.8 and hue 0.2 is for red" in line
    assert not out.exists()

    recipe = scenery.write(
        "recipes/test/on.yaml", {**RECIPES["mae"], "init": {"row": "pretrained"}}
    )
    weights = artifact(tmp_path / "weights")
    done = step("pretrain", "--recipe", recipe, "--init", weights, *network)
    assert done.returncode == 0, done.stderr
    said = "filters of the first layer (patch_embed.proj.weight) for three channels repeated over 4"
    assert said in done.stderr + done.stdout
    facts = read_manifest(out).facts
    assert facts["init"]["first_layer"].startswith(said)
    # The images' own statistics, not those that the weights were trained with.
    config = json.loads((out / "config.json").read_text())["pretrained_cfg"]
    assert config["mean"] == read_manifest(data).facts["mean"]
    assert config["input_size"] == [4, 32, 32]
