"""Steps on a frozen backbone as a user runs them: kinds of linear protocol, options of k-NN."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.artifacts.decisions import read_decisions
from steps.artifacts.records import read_records
from tests.scenery import Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]
AUGMENTED = {
    "kind": "augmented",
    "blocks": [1, 2],
    "poolings": ["cls_mean"],
    "lr": [0.1, 1.0],
    "batch_norm": True,
    "epochs": 2,
    "schedule": {"warmup_epochs": 0},
    "batch_size": 8,
    "max_batch_per_device": 4,
    "view": {"area": [0.5, 1.0]},
    "crop_fraction": 1.0,
}
LOGREG = {
    "kind": "logreg",
    "poolings": ["cls"],
    "c": [0.01, 1.0],
    "max_iterations": 50,
    "tolerance": 1e-9,
}
KNN = {
    "k": [5, 20],
    "headline_k": 5,
    "temperature": 0.07,
    "pooling": "cls",
    "more_poolings": ["mean"],
    "votes": "softmax",
    "per_class": True,
    "samples_per_class": [4],
    "tries": 2,
    "chunk": 7,
    "bank_chunk": 11,
}


@pytest.mark.slow
def test_protocols_on_a_frozen_backbone(scenery: Scenery, step: Step) -> None:
    data, root = scenery.images(train=48), scenery.root
    backbone, features = root / "backbone", root / "features"

    def run(node: str, *arguments: object, processes: int = 1) -> None:
        done = step(node, *arguments, processes=processes)
        assert done.returncode == 0, done.stderr

    def measured(node: str, name: str, content: object, processes: int = 1) -> dict[str, float]:
        protocol = scenery.write(f"protocols/{name}.yaml", content)
        out = root / f"{name}{processes}.json"
        given = ["--protocol", protocol, "--backbone", backbone, "--features", features]
        given += ["--data", data]
        run(node, *given, "--out", out, processes=processes)
        records, manifest = read_records(out)
        assert {(record.task, record.protocol) for record in records} == {(node, name)}
        assert all(record.n == 16 and 0 <= record.value <= 100 for record in records)
        values = {record.metric: record.value for record in records}
        path = out.with_suffix(".parquet")
        table = read_decisions(path, manifest.facts["decisions"]).table.to_pydict()
        assert table["id"] == [f"val/{index}" for index in range(16)]
        right = [top[0] == label for top, label in zip(table["top"], table["label"], strict=True)]
        assert values["top1"] == 100 * sum(right) / 16
        recalls = manifest.facts["recall"].values()
        assert values["balanced"] == pytest.approx(sum(recalls) / 3)
        return values

    recipe = scenery.params / "recipes/test/random.yaml"
    run("pretrain", *scenery.pretrain_arguments(recipe, data, backbone))
    protocol = scenery.write(
        "protocols/features.yaml", {"poolings": ["cls", "mean"], "crop_fraction": 1.0}
    )
    run(
        "features",
        "--protocol",
        protocol,
        "--backbone",
        backbone,
        "--data",
        data,
        "--out",
        features,
    )

    values = measured("knn", "neighbours", KNN)
    assert values["top1"] == values["top1_k5"]
    assert {"top1_k20_mean", "balanced_k20", "top1_4shot_k4", "balanced_4shot_k4"} <= set(values)
    # Three classes: the right one is always among the first five.
    assert not any(metric.startswith("top5") for metric in values)
    assert set(measured("linear", "regression", LOGREG)) == {"top1", "balanced"}

    one = measured("linear", "grid", AUGMENTED)
    assert measured("linear", "grid", AUGMENTED, processes=2) == one
    decisions = [(root / f"grid{processes}.parquet").read_bytes() for processes in (1, 2)]
    assert decisions[0] == decisions[1]
    facts = [_facts(root / f"grid{processes}.json") for processes in (1, 2)]
    assert facts[0] == facts[1]
    assert len(facts[0]["held_out"]) == 4
    assert not list(root.glob(".scratch/*")), "scratch was left behind"


def _facts(path: Path) -> dict:
    return json.loads(path.read_text())["manifest"]["facts"]
