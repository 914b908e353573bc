"""Steps on labels: what is recorded follows from the decisions that are kept beside it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from steps.artifacts import read_records
from steps.artifacts.decisions import read_decisions
from steps.command import UserError
from tests.project import tiny
from tests.scenery import Scenery

IMAGES = 16
AUGMENTED = {
    "kind": "augmented",
    "blocks": [1],
    "poolings": ["cls"],
    "lr": [0.1, 1.0],
    "epochs": 1,
    "schedule": {"warmup_epochs": 0},
    "batch_size": 8,
    "max_batch_per_device": 8,
    "view": {"area": [0.5, 1.0]},
    "crop_fraction": 1.0,
    "workers": 0,
}


def run(step: str, monkeypatch: pytest.MonkeyPatch, **options: Path) -> None:
    """A step's command, in this process."""
    words = [word for name, path in options.items() for word in (f"--{name}", str(path))]
    monkeypatch.setattr("sys.argv", [step, *words])
    importlib.import_module(f"steps.{step}").main()


def test_scores_follow_from_decisions(scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(scenery)
    root, data = scenery.root, scenery.images(train=32, val=IMAGES)
    monkeypatch.chdir(root)
    backbone, features = root / "backbone", root / "features"
    recipe = scenery.params / "recipes/test/random.yaml"
    monkeypatch.setattr(
        "sys.argv", ["pretrain", *scenery.pretrain_arguments(recipe, data, backbone)]
    )
    importlib.import_module("steps.pretrain").main()
    protocols = scenery.params / "protocols"
    given = {"backbone": backbone, "data": data}
    run("features", monkeypatch, protocol=protocols / "features.yaml", **given, out=features)
    scenery.write("protocols/augmented.yaml", AUGMENTED)
    found: dict[str, Any] = {}
    for step, name in (
        *(("knn", "knn"), ("linear", "linear"), ("linear", "logreg")),
        *(("linear", "augmented"), ("finetune", "finetune")),
    ):
        out = root / f"{name}.json"
        more = {"features": features} if step in ("knn", "linear") else {}
        run(step, monkeypatch, protocol=protocols / f"{name}.yaml", **given, **more, out=out)
        records, manifest = read_records(out)
        values = {record.metric: record.value for record in records}
        decided = read_decisions(out.with_suffix(".parquet"), manifest.facts["decisions"])
        table = decided.table.to_pydict()
        assert table["id"] == [f"val/{index}" for index in range(IMAGES)]
        assert table["label"] == [index % 3 for index in range(IMAGES)]
        right = [top[0] == label for top, label in zip(table["top"], table["label"], strict=True)]
        assert values["top1"] == 100 * sum(right) / IMAGES, name
        counts = manifest.facts["class_counts"]
        assert counts == {"class0": 6, "class1": 5, "class2": 5}
        recall = {
            f"class{index}": 100 * sum(right[index::3]) / counts[f"class{index}"]
            for index in range(3)
        }
        assert manifest.facts["recall"] == recall, name
        assert values["balanced"] == pytest.approx(sum(recall.values()) / 3)
        assert not any(metric.startswith("top5") for metric in values), "three classes"
        found[name] = out.with_suffix(".parquet").read_bytes()
    # The same command again ends with the same bits.
    again = {"protocol": protocols / "knn.yaml", "features": features, "out": root / "knn.json"}
    run("knn", monkeypatch, **given, **again)
    assert (root / "knn.parquet").read_bytes() == found["knn"]

    with pytest.raises(UserError, match=r"features: features of another dataset than .*other"):
        run("knn", monkeypatch, **{**given, "data": _another(scenery, root / "other")}, **again)


def _another(scenery: Scenery, folder: Path) -> Path:
    """A prepared set of other images."""
    scenery.images(train=32, val=IMAGES + 1).rename(folder)
    return folder
