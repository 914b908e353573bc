"""Pretraining on images without labels, measured on two labelled sets, from files to the page."""

from __future__ import annotations

import colorsys
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steps.artifacts import read_manifest, read_records
from steps.evaluation.frozen import FrozenBackbone
from tests.project import Project, tiny
from tests.scenery import Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]
SETS = ("tints", "shapes")
EXPERIMENT = {
    "title": "Own photographs",
    "question": "Do features of photographs without labels carry over to two labelled sets?",
    "dataset": "photos",
    "evaluate_on": list(SETS),
    "regime": "test",
    "methods": ["random", "mae"],
    "backbones": ["vit_test"],
    "seeds": [0],
    "tasks": {"knn": ["knn"], "finetune": ["finetune"]},
}


def _photos(folder: Path, count: int, seed: int) -> None:
    """Noisy images of one tint each, dark, so that their statistics are those of no other set."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        tint = 90 * np.array(colorsys.hsv_to_rgb(rng.random(), 0.8, 1.0))
        pixels = rng.normal(tint, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


@pytest.mark.slow
def test_unlabelled_pretraining_on_two_labelled_sets(scenery: Scenery) -> None:
    project: Project = tiny(scenery)
    root = project.root
    _photos(root / "data/photos/deep/down", 48, seed=0)
    for split, count in (("train", 12), ("val", 6)):
        for number, name in enumerate(("one", "two")):
            _photos(root / f"data/tints/{split}/{name}", count, seed=number + count)
    photos = {"format": "images", "train": "photos", "val": {"share": 0.25}}
    scenery.write("datasets/photos.yaml", photos)
    tints = {"format": "folder", "train": "tints/train", "val": "tints/val"}
    scenery.write("datasets/tints.yaml", tints)
    scenery.write("experiments/quickstart.yaml", EXPERIMENT)
    project.snakemake()

    row = root / "results/pretrained/photos/test/vit_test/mae/seed0"
    for name in SETS:
        for task, path in (
            ("knn", f"knn/{name}/features/knn"),
            ("finetune", f"finetune/{name}/finetune"),
        ):
            records, manifest = read_records(row / f"{path}.json")
            assert {(each.task, each.dataset) for each in records} == {(task, name)}
            assert {each.pretrain_dataset for each in records} == {"photos"}
            assert manifest.inputs["data"] == read_manifest(root / f"results/data/{name}").digest

    # Every set is normalised as the images of pretraining were.
    statistics = read_manifest(root / "results/data/photos").facts
    network = FrozenBackbone.load(row / "backbone")
    assert (network.mean, network.std) == (statistics["mean"], statistics["std"])
    assert network.mean != read_manifest(root / "results/data/shapes").facts["mean"]

    # k-NN on the way is on the first set, since the images of pretraining have no labels.
    backbone = read_manifest(row / "backbone", "pretrain")
    assert backbone.inputs["knn"] == read_manifest(root / "results/data/tints").digest
    log = [json.loads(line) for line in (row / "backbone/metrics.jsonl").read_text().splitlines()]
    assert any("knn_top1" in line for line in log)

    page = (root / "reports/quickstart/README.md").read_text()
    for title in ("k-NN", "Fine-tuning"):
        for name in SETS:
            assert f"## {title} on {name}\n" in page
    assert re.search(r"^\| Model +\| Average rank \| tints \| shapes \|$", page, flags=re.M)
    assert "of Fine-tuning on tints, the first set of `evaluate_on`" in page
    assert "Epochs, images, FLOPs and device time refer to pretraining on photos." in page
    assert "on a part of the images of tints" in page

    # The same nodes are DVC's, and neither engine has anything left to do.
    assert project.snakemake_plans() == set()
    project.dvc()
    project.run("dvc", "commit", "--force", "--quiet")
    assert project.dvc_plans() == set()
    # Another set brings its own nodes, and nothing that is there is made again but the page.
    scenery.write("experiments/quickstart.yaml", {**EXPERIMENT, "evaluate_on": [*SETS, "more"]})
    more = (root / "params/datasets/shapes.yaml").read_text().replace("seed: 0", "seed: 1")
    (root / "params/datasets/more.yaml").write_text(more)
    plans = project.snakemake_plans()
    assert all("/more" in path for path in plans if path.startswith("results/"))
    assert len([path for path in plans if path.endswith(".json") and "/more/" in path]) == 4


def test_a_set_without_labels_is_refused_by_both_engines(scenery: Scenery) -> None:
    project = tiny(scenery)
    photos = {"format": "images", "train": "photos", "val": {"share": 0.25}}
    scenery.write("datasets/photos.yaml", photos)
    experiment = {**EXPERIMENT, "evaluate_on": ["shapes", "photos"]}
    scenery.write("experiments/quickstart.yaml", experiment)
    line = (
        "error: params/experiments/quickstart.yaml: evaluate_on: photos has no labels, which knn "
        "needs | allowed: a classification set | remedy: take photos out of evaluate_on, use a set "
        "with labels, or leave knn out\n"
    )
    snakefile = str(Path(__file__).parents[2] / "workflow/Snakefile")
    commands = (
        ("snakemake", "report", "--snakefile", snakefile, "--cores", "1"),
        ("python", "-m", "workflow.dvc", "quickstart"),
    )
    for command in commands:
        assert line in project.run(*command, status=2)
    assert not (project.root / "results").exists()
    assert not (project.root / "dvc.yaml").exists()


def test_knn_data_without_a_use_is_refused(scenery: Scenery, step: Step) -> None:
    data = scenery.images()
    recipe = scenery.recipe("dino")
    out = scenery.root / "out"
    done = step("pretrain", *scenery.pretrain_arguments(recipe, data, out), "--knn", data)
    assert done.returncode == 2
    assert f"error: --knn: {data}, but {recipe} has no training.knn" in done.stderr
    assert not out.exists()


@pytest.mark.slow
def test_a_budget_does_not_count_the_set_of_k_nn(scenery: Scenery, step: Step) -> None:
    data = scenery.images()
    out = scenery.root / "out"
    arguments = scenery.pretrain_arguments(scenery.recipe("mae"), data, out)
    done = step("pretrain", *arguments, "--knn", data, "--budget-images", 96)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(out, "pretrain")
    assert manifest.facts["images_seen"] == 96
    assert manifest.inputs["knn"] == manifest.inputs["data"]
