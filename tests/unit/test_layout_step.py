"""The step: records and pictures of a backbone on images with masks."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image

from steps import layout
from steps.artifacts import read_manifest, read_records
from steps.command import UserError
from steps.evaluation.frozen import sized
from steps.models.backbones import Transformer, image_size, load_backbone
from steps.models.features import class_attention
from steps.params.backbone import BEiTBackbone
from tests.scenery import Scenery
from tests.unit.detection.conftest import make_backbone, make_scenes

PROTOCOL = {"mass": 0.6, "crop_fraction": 1.0, "batch_size": 3, "shown": 2}


@pytest.mark.parametrize("beit", [False, True])
def test_records_and_pictures(beit: bool, scenery: Scenery, tmp_path: Path) -> None:
    backbone = make_backbone(tmp_path / "backbone", beit=BEiTBackbone() if beit else None)
    scenes = make_scenes(tmp_path / "scenes", train=3, val=5)
    out, pictures = tmp_path / "layout.json", tmp_path / "layout"
    protocol = scenery.write("protocols/layout.yaml", PROTOCOL)
    arguments = ["--protocol", protocol, "--backbone", backbone, "--data", scenes]
    _run([*arguments, "--out", out, "--pictures", pictures])
    records, _ = read_records(out)
    values = {record.metric: record.value for record in records}
    assert list(values) == ["jaccard", "jaccard_any", "inside", "area"]
    assert 0 < values["jaccard"] <= values["jaccard_any"] <= 100
    assert all(0 < value < 100 for value in values.values())
    assert {record.n for record in records} == {5}
    assert read_manifest(pictures).inputs.keys() == {"backbone", "data"}
    sheet = Image.open(io.BytesIO((pictures / "layout.png").read_bytes()))
    assert sheet.size == (4 * 132 + 4, 2 * 132 + 4)


@pytest.mark.parametrize("beit", [False, True])
def test_a_larger_image_has_a_finer_map(beit: bool, scenery: Scenery, tmp_path: Path) -> None:
    backbone = make_backbone(tmp_path / "backbone", beit=BEiTBackbone() if beit else None)
    vit = cast(Transformer, load_backbone(backbone))
    side, patch = image_size(vit), vit.patch_embed.patch_size[0]
    larger = sized(vit, backbone, 2 * side, "here")
    attention = class_attention(larger, torch.rand(2, 3, 2 * side, 2 * side))
    assert attention.shape[-1] == (2 * side // patch) ** 2
    assert sized(vit, backbone, side, "here") is vit
    protocol = scenery.write("protocols/layout.yaml", {**PROTOCOL, "image_size": 2 * side})
    arguments = ["--protocol", protocol, "--backbone", backbone]
    arguments += ["--data", make_scenes(tmp_path / "scenes", train=3, val=5)]
    out, pictures = tmp_path / "layout.json", tmp_path / "layout"
    _run([*arguments, "--out", out, "--pictures", pictures])
    assert read_manifest(pictures).facts["size"] == 2 * side


def test_a_size_that_patches_do_not_fill_is_named(tmp_path: Path) -> None:
    backbone = make_backbone(tmp_path / "backbone")
    vit = cast(Transformer, load_backbone(backbone))
    with pytest.raises(UserError, match=r"here: 33 px does not divide .* a multiple of"):
        sized(vit, backbone, 33, "here")


def _run(arguments: list[object]) -> None:
    saved = sys.argv
    sys.argv = ["layout", *map(str, arguments)]
    try:
        layout.main()
    finally:
        sys.argv = saved
