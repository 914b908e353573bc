"""CLIP as a user trains it, and what is done with its two towers, on a set that can be learnt."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from steps.artifacts import read_manifest, read_records
from steps.artifacts.decisions import read_decisions
from steps.data.shards import Images
from steps.data.views import normalise, to_tensor
from steps.evaluation.towers import ImageTextEncoder
from tests.scenery import RECIPES, Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]
CAPTIONS = ["a picture of {class}", "{class} with the number {index}", "this is {class}"]


def _recipe(scenery: Scenery, **method: object) -> Path:
    recipe = RECIPES["clip"]
    changed = {**recipe["method"], "prompts": None, **method}
    training = {**recipe["training"], "epochs": 15, "checkpoint_seconds": 60.0}
    return scenery.write("recipes/test/own.yaml", {"method": changed, "training": training})


@pytest.fixture
def backbone(scenery: Scenery, step: Step) -> Path:
    out = scenery.root / "backbone"
    arguments = scenery.pretrain_arguments(_recipe(scenery), scenery.images(captions=CAPTIONS), out)
    done = step("pretrain", *arguments)
    assert done.returncode == 0, done.stderr
    return out


def _run(step: Step, task: str, protocol: Path, backbone: Path, data: Path, out: Path) -> None:
    done = step(
        task,
        *("--protocol", protocol, "--backbone", backbone),
        *("--data", data, "--out", out),
    )
    assert done.returncode == 0, done.stderr


def _similarities(backbone: Path, images: Images, sentences: list[str]) -> Tensor:
    """Cosines in float64 of every image and sentence, one at a time."""
    towers = ImageTextEncoder(backbone)
    method, rows = towers.method.double(), []
    for index in range(len(images)):
        pixels = to_tensor(images.image(index)).unsqueeze(0)
        image = normalise(pixels, towers.backbone.mean, towers.backbone.std).double()
        texts = [method.text_features(towers.tokenizer([sentence])) for sentence in sentences]
        rows.append(F.cosine_similarity(method.image_features(image), torch.cat(texts)))
    return torch.stack(rows).detach()


@pytest.mark.slow
def test_both_tasks(scenery: Scenery, step: Step, backbone: Path) -> None:
    data, root = scenery.root / "results/data/noise", scenery.root
    images = Images(data, "val")

    # The artifact is a timm model; what else the tasks need lies beside it, under its checksums.
    assert {"heads.safetensors", "tokenizer.json"} <= read_manifest(backbone).files.keys()
    assert timm.create_model(f"local-dir:{backbone}", pretrained=True).num_classes == 0

    prompts = ["a picture of {class}", "this is {class}"]
    content = {"prompts": prompts, "crop_fraction": 1.0, "batch_size": 5}
    protocol = scenery.write("protocols/zeroshot.yaml", content)
    _run(step, "zeroshot", protocol, backbone, data, root / "zeroshot.json")
    found = json.loads((root / "zeroshot.json").read_text())["metrics"]
    classes = [f"class{label}" for label in range(3)]
    of_prompts = [
        _similarities(backbone, images, [prompt.replace("{class}", name) for name in classes])
        for prompt in prompts
    ]
    # Two unit vectors' mean lies between them, so the sum of cosines is its own up to a factor
    # a class, which hardly differs from class to class.
    right = (sum(of_prompts).argmax(dim=1) == torch.from_numpy(images.labels)).sum().item()
    assert found["top1"] == pytest.approx(100 * right / 16, abs=100 / 16)
    assert found["top1"] > 80.0, "mean colours tell the class, and chance is 33"

    _, manifest = read_records(root / "zeroshot.json")
    path = root / "zeroshot.parquet"
    table = read_decisions(path, manifest.facts["decisions"]).table.to_pydict()
    assert (table["id"], table["label"]) == (images.ids, images.labels.tolist())
    firsts = [top[0] for top in table["top"]]
    hits = sum(first == label for first, label in zip(firsts, table["label"], strict=True))
    assert found["top1"] == 100 * hits / 16

    content = {"k": [1, 5], "captions": 2, "crop_fraction": 1.0, "batch_size": 5}
    protocol = scenery.write("protocols/retrieval.yaml", content)
    _run(step, "retrieval", protocol, backbone, data, root / "retrieval.json")
    records, manifest = read_records(root / "retrieval.json")
    assert manifest.inputs.keys() == {"backbone", "data"}
    assert {record.metric: record.n for record in records} == {
        "text_R@1": 16,
        "text_R@5": 16,
        "image_R@1": 32,
        "image_R@5": 32,
    }
    said = [images.captions(index)[:2] for index in range(16)]
    sentences = sorted({sentence for them in said for sentence in them})
    similarity = _similarities(backbone, images, sentences)
    for record in records:
        k = int(record.metric.partition("@")[2])
        by_image = record.metric.startswith("text")
        hits = 0
        for query in range(16 if by_image else 32):
            image, caption = query if by_image else query // 2, said[query // 2][query % 2]
            if by_image:
                scores = similarity[image]
                right_ones = torch.tensor([sentence in said[image] for sentence in sentences])
            else:
                scores = similarity[:, sentences.index(caption)]
                right_ones = torch.tensor([caption in them for them in said])
            hits += int((scores[~right_ones] >= scores[right_ones].max()).sum() < k)
        assert record.value == pytest.approx(100 * hits / record.n), record.metric

    path = root / "retrieval.parquet"
    table = read_decisions(path, manifest.facts["decisions"]).table.to_pydict()
    assert table["id"] == [images.ids[caption // 2] for caption in range(32)]
    for record in records:
        values = [value for value in table[record.metric] if value is not None]
        assert (len(values), sum(values) / len(values)) == (record.n, record.value)

    labels = scenery.images()  # the same images, without captions
    arguments = ("--protocol", protocol, "--data", labels, "--out", root / "out.json")
    _refused(step("retrieval", *arguments, "--backbone", backbone), "a set without captions")


@pytest.mark.slow
def test_what_has_no_text_is_refused(scenery: Scenery, step: Step) -> None:
    data, random = scenery.images(), scenery.root / "random"
    recipe = scenery.params / "recipes/test/random.yaml"
    done = step("pretrain", *scenery.pretrain_arguments(recipe, data, random))
    assert done.returncode == 0, done.stderr
    content = {"prompts": ["{class}"], "crop_fraction": 1.0}
    protocol = scenery.write("protocols/zeroshot.yaml", content)
    arguments = ("--protocol", protocol, "--data", data, "--out", scenery.root / "out.json")
    done = step("zeroshot", *arguments, "--backbone", random)
    _refused(done, "a backbone of random, which has no text tower")
    out = scenery.root / "out"
    done = step("pretrain", *scenery.pretrain_arguments(_recipe(scenery), data, out))
    _refused(done, "a set without captions")
    assert not out.exists()


def _refused(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert reason in line
