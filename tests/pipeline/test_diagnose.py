"""Pictures drawn from a pretraining's artifact, as a user draws them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from steps.artifacts import verify
from tests.scenery import Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]
PICTURES = {
    "mae": ["reconstructions.png"],
    "mp3": ["position_error.png", "positions.png"],
}


def pretrained(recipe: str, scenery: Scenery, step: Step) -> tuple[Path, Path]:
    data, out = scenery.images(), scenery.root / recipe
    done = step("pretrain", *scenery.pretrain_arguments(scenery.recipe(recipe), data, out))
    assert done.returncode == 0, done.stderr
    return data, out


@pytest.mark.parametrize("recipe", PICTURES)
def test_pictures_of_held_out_images(recipe: str, scenery: Scenery, step: Step) -> None:
    data, backbone = pretrained(recipe, scenery, step)
    outs = [scenery.root / name for name in ("first", "second")]
    for out in outs:
        arguments = ("--backbone", backbone, "--data", data, "--images", 12, "--out", out)
        done = step("diagnose", *arguments)
        assert done.returncode == 0, done.stderr
    manifests = [verify(out) for out in outs]
    assert sorted(manifests[0].files) == PICTURES[recipe]
    assert manifests[0].digest == manifests[1].digest, "the same artifact, other pictures"
    for name in PICTURES[recipe]:
        with Image.open(outs[0] / name) as picture:
            assert picture.format == "PNG"


def test_a_method_without_pictures_is_named(scenery: Scenery, step: Step) -> None:
    data, backbone = pretrained("random", scenery, step)
    out = scenery.root / "out"
    done = step("diagnose", "--backbone", backbone, "--data", data, "--out", out)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "method random keeps no heads.safetensors" in line
    assert not out.exists()
