"""Pictures drawn from a pretraining's artifact, as a user draws them."""

from __future__ import annotations

import re
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
    "beit2": ["tokens.png"],
    "tokenizer-dalle": ["codebook.png", "codes.png", "reconstructions.png"],
}


def trained(run: str, scenery: Scenery, step: Step) -> tuple[str | Path, ...]:
    """Train; the options with which pictures are drawn of the result."""
    data, out = scenery.images(), scenery.root / run
    node, arguments = scenery.training(run, data, out)
    done = step(node, *arguments)
    assert done.returncode == 0, done.stderr
    if node == "tokenizer":
        return "--tokenizer", out, "--data", data
    options: tuple[str | Path, ...] = ("--backbone", out, "--data", data)
    if "--tokenizer" in arguments:
        options += ("--tokenizer", arguments[arguments.index("--tokenizer") + 1])
    return options


@pytest.mark.parametrize("recipe", PICTURES)
def test_pictures_of_held_out_images(recipe: str, scenery: Scenery, step: Step) -> None:
    options = trained(recipe, scenery, step)
    outs = [scenery.root / name for name in ("first", "second")]
    for out in outs:
        done = step("diagnose", *options, "--images", 12, "--out", out)
        assert done.returncode == 0, done.stderr
    manifests = [verify(out) for out in outs]
    assert sorted(manifests[0].files) == PICTURES[recipe]
    assert manifests[0].digest == manifests[1].digest, "the same artifact, other pictures"
    for name in PICTURES[recipe]:
        with Image.open(outs[0] / name) as picture:
            assert picture.format == "PNG"


def test_a_method_without_pictures_is_named(scenery: Scenery, step: Step) -> None:
    options = trained("random", scenery, step)
    out = scenery.root / "out"
    done = step("diagnose", *options, "--out", out)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "method random keeps no heads.safetensors" in line
    assert not out.exists()


def test_the_tokenizer_must_be_the_one_behind(scenery: Scenery, step: Step) -> None:
    options = trained("beit", scenery, step)
    other = trained("tokenizer-dalle", scenery, step)[1]
    # The other one is trained anew from the same seed: change what it is.
    manifest = Path(other) / "manifest.json"
    manifest.write_text(
        re.sub(r'"digest": "\w{8}', '"digest": "01234567', manifest.read_text(), count=1)
    )
    out = scenery.root / "out"
    for wrong, message in ((options[:4], "missing"), ((*options[:5], other), "is 01234567")):
        done = step("diagnose", *wrong, "--images", 12, "--out", out)
        assert done.returncode == 2
        assert message in done.stderr
        assert "allowed: the tokenizer" in done.stderr
        assert not out.exists()
