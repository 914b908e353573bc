"""Every recipe for a GPU or from weights starts: cut down in its sizes, it takes two steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline.runs import Run, run_all
from tests.processes import REPOSITORY
from tests.scenery import TOKENIZERS, Scenery

REGIMES = ("cifar10", "imagenet")
WIDTHS = {"hidden_dim": 16, "bottleneck_dim": 8, "out_dim": 24, "patch_out_dim": 24}
"""Widths of heads, however wide a recipe has them."""
SIDES = {224: 32, 112: 32, 96: 16, 64: 32}
"""Sides of views; a tokenizer's image is that of the test's."""
SMALL: dict[str, Any] = {
    "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
    "vocabulary": {"size": 280},
    "embed_dim": 16,
    "early_layers": 1,
    "min_block": 2,
}


def _cut(content: Any) -> Any:
    """The same with smaller sizes."""
    if isinstance(content, list):
        return [_cut(value) for value in content]
    if not isinstance(content, dict):
        return content
    cut = {key: WIDTHS.get(key, SMALL.get(key, _cut(value))) for key, value in content.items()}
    if "text_tower" in cut:
        cut["text_tower"] |= {"width": 16, "depth": 1, "num_heads": 2, "context_length": 12}
    if isinstance(content.get("size"), int):
        cut["size"] = SIDES.get(content["size"], content["size"])
    return cut


def _started(scenery: Scenery, data: Path, path: Path, init: Path | None = None) -> Run:
    """The run of a recipe for two steps, in its own precision, views, losses and optimiser.

    Args:
        scenery: where it runs.
        data: a prepared set.
        path: the recipe.
        init: weights that it starts from, if it names any.
    """
    content = yaml.safe_load(path.read_text())
    content["method"] = _cut(content["method"])
    if training := content.get("training"):
        training["views"] = _cut(training["views"])
        sizes = {"epochs": 2, "batch_size": 8, "max_batch_per_device": 8, "workers": 0}
        training |= {**sizes, "log_every": 1}
        training["schedule"]["warmup_epochs"] = min(training["schedule"]["warmup_epochs"], 1)
        if "freeze_backbone_epochs" in training:
            training["freeze_backbone_epochs"] = 1
        training.pop("knn", None)
        for key in ("warmup_teacher_temp_epochs", "freeze_last_layer_epochs"):
            if key in content["method"]:
                content["method"][key] = 1
    regime = path.parent.name
    recipe = scenery.write(f"recipes/test/{regime}-{path.stem}.yaml", content)
    resnet = path.stem == "mocov3_resnet50" or (regime, path.stem) == ("imagenet", "simclr")
    scenery.backbone_name = "resnet_test" if resnet else "vit_test"
    out = scenery.root / f"{regime}-{path.stem}" / "out"
    options = [] if init is None else ["--init", str(init)]
    arguments = [*scenery.pretrain_arguments(recipe, data, out), *options]
    return Run(str(out.parent), "pretrain", arguments)


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES)
def test_every_recipe_starts(regime: str, scenery: Scenery) -> None:
    data = scenery.images(train=8, captions=["a {class}", "image {index}"])
    scenery.write("tokenizers/test/vqkd_official.yaml", TOKENIZERS["vqkd"])
    every = sorted((REPOSITORY / f"params/recipes/{regime}").glob("*.yaml"))
    paths = [path for path in every if not path.stem.startswith("continue_")]
    assert len(paths) >= 15
    run_all([_started(scenery, data, path) for path in paths], scenery.root)
    for path in paths:
        out = scenery.root / f"{regime}-{path.stem}/out"
        asked = json.loads((out / "manifest.json").read_text())["params"]["recipe"]
        lines = (out / "metrics.jsonl").read_text().splitlines()
        if "training" in yaml.safe_load(path.read_text()):
            assert len(lines) == 2, path
            assert asked["training"]["precision"] == "bf16", path
        else:
            assert not lines, path


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["small", *REGIMES])
def test_every_recipe_of_continued_pretraining_starts(regime: str, scenery: Scenery) -> None:
    data = scenery.images(train=8)
    paths = sorted((REPOSITORY / f"params/recipes/{regime}").glob("continue_*.yaml"))
    assert len(paths) == 4
    runs = []
    for path in paths:
        method = path.stem.removeprefix("continue_")
        name = "simclr_vit" if (regime, method) == ("imagenet", "simclr") else method
        weights = scenery.root / f"{regime}-{name}/out"
        runs.append(_started(scenery, data, path.with_name(f"{name}.yaml")))
        runs.append(_started(scenery, data, path, weights))
    run_all(runs, scenery.root)
    for path in paths:
        out = scenery.root / f"{regime}-{path.stem}/out"
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["facts"]["init"]["digest"] == manifest["inputs"]["init"]
        assert len((out / "metrics.jsonl").read_text().splitlines()) == 2, path
