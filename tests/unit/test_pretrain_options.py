"""Pretraining at another length, on a share of the images, as a study of scale runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steps.artifacts import read_manifest
from tests.scenery import Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_a_point_of_a_study_is_its_own_row(scenery: Scenery, step: Step) -> None:
    recipe = scenery.recipe("mae", epochs=2, batch_size=8, max_batch_per_device=8)

    def facts(name: str, *options: str) -> dict[str, Any]:
        out = scenery.root / name
        arguments = scenery.pretrain_arguments(recipe, scenery.images(train=48), out)
        done = step("pretrain", *arguments, *options)
        assert done.returncode == 0, done.stderr
        return read_manifest(out, "pretrain").facts

    plain = facts("plain")
    assert (plain["recipe"], plain["epochs"], plain["images_seen"]) == ("mae", 2, 96)
    scaled = facts("grown", "--length", "1.5", "--data-share", "0.5")
    # Three epochs over 24 of the 48 images.
    assert (scaled["recipe"], scaled["epochs"]) == ("mae-x1.5-d50", 3)
    assert scaled["images_seen"] == 72
    assert scaled["flops"] == pytest.approx(0.75 * plain["flops"])
    # One option leaves the other key as the recipe has it.
    recipe.write_text(recipe.read_text() + "data_share: 0.5\n")
    long = facts("long", "--length", "1.5")
    assert (long["recipe"], long["images_seen"]) == ("mae-x1.5-d50", 72)
    manifest = read_manifest(scenery.root / "grown", "pretrain")
    assert manifest.params["recipe"]["data_share"] == 0.5
    assert manifest.params["recipe"]["training"]["length"] == 1.5


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("mae", ["--data-share", "1.5"], "a share above 0 and at most 1"),
        ("mae", ["--length", "0"], "a length above 0"),
        ("random", ["--length", "2"], "initialisation only"),
    ],
)
def test_options_out_of_range(
    recipe: str, options: list[str], message: str, scenery: Scenery, step: Step
) -> None:
    path: Path = scenery.params / f"recipes/test/{recipe}.yaml"
    out = scenery.root / "out"
    done = step("pretrain", *scenery.pretrain_arguments(path, scenery.images(), out), *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()
