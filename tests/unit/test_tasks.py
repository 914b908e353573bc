"""Features, k-NN, linear probe and fine-tuning as a user runs them, on a set that can be learnt."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models.resnet import ResNet

from steps.artifacts import read_manifest, read_records
from steps.models.features import frozen_features
from tests.scenery import RECIPES, Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(
    params=[
        ("random", "vit_test"),
        pytest.param(("random_beit", "vit_test"), marks=pytest.mark.long),
        ("random", "resnet_test"),
    ],
    ids=lambda pair: "-".join(pair),
)
def backbone(request: pytest.FixtureRequest, scenery: Scenery, step: Step) -> Path:
    out = scenery.root / "backbone"
    name, scenery.backbone_name = request.param
    recipe = scenery.params / f"recipes/test/{name}.yaml"
    done = step("pretrain", *scenery.pretrain_arguments(recipe, scenery.images(), out))
    assert done.returncode == 0, done.stderr
    return out


def _finish(done: subprocess.CompletedProcess[str], out: Path) -> dict[str, float]:
    assert done.returncode == 0, done.stderr
    records, manifest = read_records(out)
    assert all(record.n == 16 and record.unit == "%" for record in records)
    assert manifest.inputs["backbone"] == records[0].artifact
    assert "data" in manifest.inputs  # by it, rows on two versions of a set are told apart
    return json.loads(out.read_text())["metrics"]


def _exact_knn(features: Path, k: int) -> float:
    """Weighted k-NN accuracy in percent, sample by sample in float64."""
    arrays = {
        split: np.load(features / f"{split}_mean.npy").astype(np.float64)
        for split in ("train", "val")
    }
    train, val = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in arrays.values())
    train_labels, val_labels = (np.load(features / f"{split}_labels.npy") for split in arrays)
    hits = 0
    for query, label in zip(val, val_labels, strict=True):
        similarity = train @ query
        nearest = np.argsort(-similarity)[:k]
        votes = np.zeros(3)
        np.add.at(votes, train_labels[nearest], np.exp(similarity[nearest] / 0.07))
        hits += votes.argmax() == label
    return 100.0 * hits / len(val)


@pytest.mark.slow
def test_frozen_tasks(scenery: Scenery, step: Step, backbone: Path) -> None:
    data, root = scenery.root / "results/data/noise", scenery.root
    features = scenery.write(
        "protocols/features.yaml", {"poolings": ["cls", "mean"], "crop_fraction": 1.0}
    )
    done = step(
        "features",
        *("--protocol", features, "--backbone", backbone),
        *("--data", data, "--out", root / "features"),
    )
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(root / "features", "features")
    assert manifest.inputs.keys() == {"backbone", "data"}

    # The artifact is a timm model, and its own forward pass gives the features that we extract.
    model = timm.create_model(f"local-dir:{backbone}", pretrained=True, num_classes=0).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = frozen_features(model, images, ["cls", "mean"])
        theirs = model.forward_features(images)
    if isinstance(model, ResNet):
        expected = {"cls": theirs.mean(dim=(2, 3)), "mean": theirs.mean(dim=(2, 3))}
    else:
        expected = {"cls": theirs[:, 0], "mean": theirs[:, 1:].mean(dim=1)}
    torch.testing.assert_close(ours, expected)
    assert np.load(root / "features/val_mean.npy").shape == (16, model.num_features)

    arguments = ("--backbone", backbone, "--features", root / "features")
    arguments += ("--data", data, "--out")
    protocol = {"k": [3, 5], "headline_k": 5, "temperature": 0.07, "pooling": "mean", "chunk": 7}
    path = scenery.write("protocols/knn.yaml", protocol)
    knn = _finish(step("knn", "--protocol", path, *arguments, root / "knn.json"), root / "knn.json")
    assert knn["top1"] == knn["top1_k5"]
    for k in (3, 5):
        assert knn[f"top1_k{k}"] == pytest.approx(_exact_knn(root / "features", k))

    protocol = {
        "kind": "cached",
        "poolings": ["cls", "mean"],
        "epochs": 40,
        "batch_size": 16,
        "lr": [0.1, 1.0],
    }
    path = scenery.write("protocols/linear.yaml", protocol)
    out = root / "linear.json"
    linear = _finish(step("linear", "--protocol", path, *arguments, out), out)
    assert linear["top1"] > 60.0, "mean colours tell the class, and chance is 33"

    path = scenery.write("protocols/knn.yaml", {**protocol, "k": [3]})
    done = step("knn", "--protocol", path, *arguments, root / "other.json")
    assert done.returncode == 2
    assert not (root / "other.json").exists()


@pytest.mark.slow
def test_finetuning(scenery: Scenery, step: Step, backbone: Path) -> None:
    training = {**RECIPES["supervised"]["training"], "epochs": 12, "checkpoint_seconds": 60.0}
    training["views"] = [{"area": [0.5, 1.0]}]
    training["optimizer"] = {**training["optimizer"], "layer_decay": 0.8, "lr": 0.05}
    method = {**RECIPES["supervised"]["method"], "pooling": "mean", "mix_probability": 0.3}
    path = scenery.write(
        "protocols/finetune.yaml", {"method": method, "training": training, "crop_fraction": 1.0}
    )
    out = scenery.root / "finetune.json"
    done = step(
        "finetune",
        *("--protocol", path, "--backbone", backbone),
        *("--data", scenery.root / "results/data/noise", "--out", out),
    )
    assert _finish(done, out)["top1"] > 80.0


@pytest.mark.slow
def test_finetuning_with_a_share_of_the_labels(scenery: Scenery, step: Step) -> None:
    training = {**RECIPES["supervised"]["training"], "epochs": 1, "checkpoint_seconds": 60.0}
    training["batch_size"] = training["max_batch_per_device"] = 8
    training["schedule"] = {"warmup_epochs": 0}
    data, backbone, out = scenery.images(), scenery.root / "backbone", scenery.root / "few.json"
    recipe = scenery.params / "recipes/test/random.yaml"
    done = step("pretrain", *scenery.pretrain_arguments(recipe, data, backbone))
    assert done.returncode == 0, done.stderr
    protocol = {
        "method": RECIPES["supervised"]["method"],
        "training": training,
        "label_share": 0.5,
        "crop_fraction": 1.0,
    }
    path = scenery.write("protocols/few.yaml", protocol)
    given = ("--protocol", path, "--backbone", backbone, "--data", data, "--out", out)
    _finish(step("finetune", *given), out)
    # Of 48 images of three classes, eight of each.
    assert read_records(out)[1].facts["labelled_images"] == 24
