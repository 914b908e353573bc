"""Pictures of attention and patch tokens of any images, through the command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from steps import visualize
from steps.command import UserError
from tests.pipeline.test_embed import photos
from tests.unit.detection.conftest import make_backbone
from tests.unit.detection.test_resnet import _publish as publish_resnet

Step = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A small vision transformer as it is initialised."""
    return make_backbone(tmp_path / "backbone", depth=2)


@pytest.mark.parametrize(("options", "columns"), [((), 4), (("--each-head",), 5)])
def test_a_row_per_image_and_a_column_per_view(
    options: tuple[str, ...], columns: int, backbone: Path, tmp_path: Path, step: Step
) -> None:
    photos(tmp_path / "photos")
    given = ("--backbone", backbone, "--images", "photos", "--out", "found/a.png", "--count", "3")
    for _ in range(2):  # the second run replaces the first one's picture
        done = step("visualize", *given, *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "found/a.png: 3 of 6 images\n"
    with Image.open(tmp_path / "found/a.png") as picture:
        wide, tall = picture.size
    assert (wide - 4) / columns == (tall - 4) / 3
    assert [file.name for file in (tmp_path / "found").iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--out": "a.jpg"}, "--out a.jpg: not the name of a PNG file"),
        ({"--out": "notes.png"}, "notes.png: stands there already"),
        ({"--images": "none"}, "--images none: nothing there"),
        ({"--size": "30"}, "--size 30: 30 px does not divide into the"),
        ({"--images": "damaged"}, "damaged: cut.png: "),
        ({"--backbone": "resnet"}, "--backbone resnet: a ResNet without a class token"),
        ({"--backbone": "photos"}, "--backbone photos: a folder without"),
        ({"--backbone": "timm:resnet99"}, "--backbone timm:resnet99: timm has no such model"),
    ],
)
def test_bad_input_in_a_line(
    changes: dict[str, str],
    said: str,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(Path("photos"))
    Path("notes.png").write_text("no picture")
    Path("damaged").mkdir()
    whole = Path("photos/a1.png").read_bytes()
    Path("damaged/cut.png").write_bytes(whole[: len(whole) // 2])
    publish_resnet(Path("resnet"))
    options = {"--backbone": backbone, "--images": "photos", "--out": "found.png", **changes}
    words = [str(word) for pair in options.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["visualize", *words])
    with pytest.raises(UserError) as caught:
        visualize.main()
    assert said in str(caught.value)
    assert not Path("found.png").exists()
    assert Path("notes.png").read_text() == "no picture"
