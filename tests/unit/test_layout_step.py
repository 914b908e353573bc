"""The step: records and pictures of a backbone on images with masks."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image

from steps import layout
from steps.artifacts import read_manifest, read_records
from steps.params.beit import BEiTBackbone
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


def _run(arguments: list[object]) -> None:
    saved = sys.argv
    sys.argv = ["layout", *map(str, arguments)]
    try:
        layout.main()
    finally:
        sys.argv = saved
