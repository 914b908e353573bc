"""A run whose weights are decayed to nothing is warned of, and its artifact says so."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

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


@pytest.mark.slow
def test_a_collapse_stops_a_run_that_asks_for_it(scenery: Scenery, step: Step) -> None:
    data = scenery.images()
    decay = {"name": "adamw", "lr": 0.1, "weight_decay": 200.0}
    changed = {"optimizer": decay, "epochs": 4, "checkpoint_seconds": 1000.0}
    out = scenery.root / "out"

    def pretrain(on_collapse: str) -> subprocess.CompletedProcess[str]:
        path = scenery.recipe("dino", **changed, on_collapse=on_collapse)
        return step("pretrain", *scenery.pretrain_arguments(path, data, out))

    done = pretrain("stop")
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    recipe = "params/recipes/test/dino.yaml: training.on_collapse: stop, and dino vit_test seed 0"
    assert f"{recipe} collapsed at step " in error
    assert ", below 0.05: the teacher says nearly the same of every view" in error
    assert "remedy: teacher_entropy near 0: raise teacher_temp" in error
    assert "or set on_collapse: warn, and the same command goes on from .scratch/pretrain-" in error
    assert not out.exists()
    (checkpoint,) = scenery.root.glob(".scratch/*/checkpoint.pt")

    # The same again stops at once, with nothing made in between.
    before = checkpoint.read_bytes()
    again = pretrain("stop")
    assert again.returncode == 2
    assert error in again.stderr
    assert checkpoint.read_bytes() == before

    # What has only to be watched goes on from there.
    done = pretrain("warn")
    assert done.returncode == 0, done.stderr
    assert read_manifest(out).facts["collapsed"] is True
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").open()]
    assert steps == list(range(1, 25))
    assert not (scenery.root / ".scratch").exists() or not any(scenery.root.glob(".scratch/*/*.pt"))


def test_a_tokenizer_has_no_collapse_watch(scenery: Scenery, step: Step) -> None:
    path = scenery.tokenizer("dalle", on_collapse="stop")
    arguments = scenery.tokenizer_arguments(path, scenery.images(), scenery.root / "out")
    done = step("tokenizer", *arguments)
    assert done.returncode == 2
    assert "tokenizer dalle has no collapse watch that could stop it" in done.stderr
