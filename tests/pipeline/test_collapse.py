"""A run whose weights are decayed to nothing is warned of, and its artifact says so."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from steps.artifacts import read_manifest
from tests.scenery import Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]


def test_collapse_is_warned_of_and_recorded(scenery: Scenery, step: Step) -> None:
    data = scenery.images()
    decay = {"name": "adamw", "lr": 0.1, "weight_decay": 200.0}
    path = scenery.recipe("dino", optimizer=decay, epochs=4)
    out = scenery.root / "out"
    done = step("pretrain", *scenery.pretrain_arguments(path, data, out))
    assert done.returncode == 0, done.stderr
    assert "collapse: dino vit_test seed 0 at step " in done.stderr
    assert "embedding_std is " in done.stderr
    assert read_manifest(out).facts["collapsed"] is True
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["embedding_std"] < 0.02


def test_what_is_not_watched_counts_as_not_collapsed(scenery: Scenery, step: Step) -> None:
    data = scenery.images()
    for recipe in ("mae", "random"):
        out = scenery.root / recipe
        path = scenery.recipe(recipe)
        done = step("pretrain", *scenery.pretrain_arguments(path, data, out))
        assert done.returncode == 0, done.stderr
        assert read_manifest(out).facts["collapsed"] is False
