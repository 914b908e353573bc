"""Probes of several labels per image and of numbers, from a CSV file to the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from steps.artifacts import read_records
from steps.artifacts.decisions import read_decisions
from tests.project import Project, tiny
from tests.scenery import RECIPES, Scenery

EXPERIMENT = {
    "title": "Scans",
    "question": "Do features tell findings and the age?",
    "dataset": "findings",
    "evaluate_on": ["findings", "ages"],
    "regime": "test",
    "methods": ["random"],
    "backbones": ["vit_test"],
    "seeds": [0],
    "tasks": {"knn": ["knn"], "linear": ["linear"], "finetune": ["finetune"]},
}
COUNT = 60


def _scans(folder: Path) -> None:
    """Images whose left half is red, right half green, each or not; the blue tells the age."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    lines = ["file,findings,age"]
    for index in range(COUNT):
        left, right, age = rng.random() < 0.5, rng.random() < 0.4, rng.uniform(20, 90)
        pixels = rng.normal(60, 15, (32, 32, 3))
        pixels[:, :16, 0] += 120 * left
        pixels[:, 16:, 1] += 120 * right
        pixels[..., 2] += 1.5 * age
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
        found = "|".join(name for name, there in (("mass", left), ("nodule", right)) if there)
        lines.append(f"{index}.png,{found or 'No Finding'},{age:.1f}")
    (folder / "scans.csv").write_text("\n".join(lines) + "\n")


def _finetune() -> dict[str, object]:
    training = {**RECIPES["supervised"]["training"], "epochs": 6, "checkpoint_seconds": 60.0}
    training["views"] = [{"area": [0.8, 1.0]}]
    training["schedule"] = {"warmup_epochs": 0}
    training["batch_size"] = training["max_batch_per_device"] = 8
    method = {**RECIPES["supervised"]["method"], "pooling": "mean", "label_smoothing": 0.0}
    return {"method": method, "training": training, "crop_fraction": 1.0, "label_share": 0.9}


@pytest.mark.slow
def test_findings_and_ages(scenery: Scenery) -> None:
    project: Project = tiny(scenery)
    root = project.root
    _scans(root / "data/scans")
    table = {"format": "csv", "train": "scans/scans.csv", "val": {"share": 0.4}}
    table["image_column"] = "file"
    labels = {"label_column": "findings", "label_separator": "|", "no_label": "No Finding"}
    scenery.write("datasets/findings.yaml", {**table, **labels})
    scenery.write("datasets/ages.yaml", {**table, "number_column": "age"})
    linear = {"kind": "cached", "poolings": ["cls", "mean"], "epochs": 60, "batch_size": 16}
    scenery.write("protocols/linear.yaml", {**linear, "lr": [0.03, 0.3, 1e6]})
    scenery.write("protocols/finetune.yaml", _finetune())
    scenery.write("experiments/quickstart.yaml", EXPERIMENT)
    project.snakemake()

    row = root / "results/pretrained/findings/test/vit_test/random/seed0"
    values: dict[tuple[str, str], dict[str, float]] = {}
    for name, kind in (("findings", "labels"), ("ages", "numbers")):
        for task, path in (
            ("knn", f"knn/{name}/features/knn"),
            ("linear", f"linear/{name}/features/linear"),
            ("finetune", f"finetune/{name}/finetune"),
        ):
            records, manifest = read_records(row / f"{path}.json")
            values[name, task] = json.loads((row / f"{path}.json").read_text())["metrics"]
            decided = read_decisions(row / f"{path}.parquet", manifest.facts["decisions"])
            assert decided.kind == kind
            assert decided.table.num_rows == 24 == records[0].n
            assert records[0].metric == ("mAP" if name == "findings" else "R2")
            assert {each.unit for each in records} == ({"%"} if name == "findings" else {""})
    for task in ("knn", "linear"):
        assert values["findings", task]["AUROC"] > 75, task
    assert values["ages", "linear"]["R2"] > 0.5
    assert values["ages", "linear"]["MAE"] < 15
    assert values["ages", "knn"]["MAE"] == values["ages", "knn"]["MAE_k20"]
    # A learning rate with which the probe diverges is not chosen.
    assert read_records(row / "linear/ages/features/linear.json")[1].facts["lr"] < 1
    facts = read_records(row / "finetune/findings/finetune.json")[1].facts
    assert facts["labelled_images"] == 32  # 0.9 of 36, without regard to labels
    assert {*facts["average_precision"]} == {"mass", "nodule"}

    page = (root / "reports/quickstart/README.md").read_text()
    assert "Images have several labels: mAP (average precision)" in page
    assert "Images have a number: R2 is the share of its variance" in page
    assert re.search(r"^\| Model +\| Seeds \| Rank \| +mAP \| AUROC \| +F1 \|$", page, flags=re.M)
    assert re.search(r"^\| Model +\| Seeds \| Rank \| +R2 \| +MAE \|$", page, flags=re.M)
    kept = pl.read_parquet(root / "reports/quickstart/decisions.parquet")
    assert set(kept.select("metric", "evaluate_on").rows()) == {
        ("mAP", "findings"),
        ("R2", "ages"),
    }
    assert kept["draws"].list.len().unique().to_list() == [1000]
