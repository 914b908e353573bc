"""An official checkpoint as a row, from the experiment to the page, under both engines."""

from __future__ import annotations

import pytest
import torch

from steps.artifacts import read_manifest, read_records
from tests.project import Project
from tests.scenery import BACKBONE, Scenery
from tests.unit.models.official.test_reading import official


@pytest.mark.slow
def test_an_official_checkpoint_is_a_row_under_both_engines(scenery: Scenery) -> None:
    root, project = scenery.root, Project(scenery.root)
    (root / "data/official").mkdir(parents=True)
    torch.save(official("mae"), root / "data/official/mae.pth")
    scenery.images()
    # Of the file, but for the size of its images, which is 16 px.
    size = {"patch_size": 4, "model_args": {**BACKBONE["model_args"], "num_heads": 3}}
    scenery.write("backbones/vit_test.yaml", {**BACKBONE, **size})
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    scenery.write(
        "protocols/knn.yaml",
        {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"},
    )
    imported = {
        "name": "mae_official",
        "format": "mae",
        "checkpoint": "official/mae.pth",
        "backbone": "vit_test",
        "trained_on": "imagenet1k",
    }
    scenery.write(
        "experiments/quickstart.yaml",
        {
            "title": "Official",
            "question": "Is a checkpoint a row?",
            "dataset": "noise",
            "regime": "test",
            "methods": [{"imported": imported}],
            "backbones": ["vit_test"],
            "seeds": [1],
            "tasks": {"knn": ["knn"]},
        },
    )

    project.snakemake()
    row = root / "results/imported/vit_test/mae_official/seed1"
    artifact = read_manifest(row / "backbone", "pretrain")
    records, _ = read_records(row / "knn/noise/features/knn.json")
    assert artifact.seed == records[0].seed == 1
    assert records[0].artifact == artifact.digest
    assert (records[0].recipe, records[0].kind) == ("mae_official", "Generative")
    page = (root / "reports/quickstart/README.md").read_text()
    assert "| mae_official ◐ |    1 | Generative | ViT-Test |" in page
    assert "Imported: mae_official. The authors pretrained these weights" in page
    assert "pretraining on imagenet1k." in page

    project.dvc()
    project.run("dvc", "commit", "--force", "--quiet")
    assert project.dvc_plans() == set()
    assert project.snakemake_plans() == set()
