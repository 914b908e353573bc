"""Imported rows, from the experiment to the page: official, of timm, of transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from steps.artifacts import read_manifest, read_records
from steps.params.load import read_yaml
from tests.project import PROTOCOLS, Project, record, tiny
from tests.scenery import BACKBONE, Scenery
from tests.unit.models.official.test_pretrained import hub_folder
from tests.unit.models.official.test_reading import official
from tests.unit.test_import import eva_file


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
    assert "Imported: mae_official. These weights come from elsewhere" in page
    assert "pretraining on imagenet1k." in page

    project.dvc()
    project.run("dvc", "commit", "--force", "--quiet")
    assert project.dvc_plans() == set()
    assert project.snakemake_plans() == set()


@pytest.mark.slow
def test_rotary_positions_go_through_every_task(scenery: Scenery) -> None:
    root, project = scenery.root, tiny(scenery)
    (root / "data/timm").mkdir(parents=True)
    eva_file(root / "data/timm/dinov3.safetensors")
    # An imported row is of the size of its backbone; positions are those of 64 px.
    network = {"architecture": "vit_small_patch16_dinov3", "image_size": 64}
    scenery.write("backbones/vit_test.yaml", {**BACKBONE, **network})
    hub_folder("dinov3", root / "data/hub/dinov3")
    rows = {
        "dinov3_timm": {
            "timm": "vit_small_patch16_dinov3.lvd1689m",
            "checkpoint": "timm/dinov3.safetensors",
        },
        "dinov3_hub": {"transformers": "hub/dinov3", "trained_on": "lvd1689m"},
    }
    path = scenery.params / "experiments/quickstart.yaml"
    content = read_yaml(path)
    content["methods"] = [
        {"imported": {"name": name, "backbone": "vit_test", **keys}} for name, keys in rows.items()
    ]
    del content["pictures"]
    scenery.write("experiments/quickstart.yaml", content)
    shutil.rmtree(scenery.params / "recipes")
    project.snakemake()
    for name, (method, kind) in {
        "dinov3_timm": ("timm", "Unknown"),
        "dinov3_hub": ("dinov3", "Hybrid"),
    }.items():
        row = f"results/imported/vit_test/{name}/seed0"
        for task, protocols in PROTOCOLS.items():
            for protocol in protocols:
                records, _ = read_records(root / record(row, task, protocol))
                assert (records[0].method, records[0].kind) == (method, kind)
    page = (root / "reports/quickstart/README.md").read_text()
    assert "Imported: dinov3_timm, dinov3_hub." in page
    assert not list(Path(root, "results").glob("*.scratch"))
