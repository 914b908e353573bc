"""The step detect as a command: artifacts in, a record file out."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from steps.artifacts import read_manifest, read_records
from steps.artifacts.decisions import read_decisions
from steps.artifacts.manifest import ROOT
from steps.command import UserError
from steps.detect import main
from steps.evaluation.precision import KINDS, average_precision, in_coco_format
from steps.params.detection import Detection
from steps.params.load import load


@pytest.fixture
def protocol(small_values: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**small_values, "epochs": 1}))
    return path


@pytest.mark.parametrize("kind", ["backbone", "beit_backbone"])
def test_command_writes_records_and_leaves_nothing_else(
    kind: str,
    request: pytest.FixtureRequest,
    protocol: Path,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backbone: Path = request.getfixturevalue(kind)
    out, pictures = tmp_path / "results" / "detect.json", tmp_path / "pictures"
    arguments = {
        "protocol": protocol,
        "backbone": backbone,
        "data": scenes,
        "out": out,
        "pictures": pictures,
    }
    flags = [text for key, path in arguments.items() for text in (f"--{key}", str(path))]
    main(flags)
    records, manifest = read_records(out)
    metrics = {record.metric: record.value for record in records}
    assert {"box_AP", "box_AP50", "box_AP75", "mask_AP", "mask_AP50"} <= set(metrics)
    # The scenes have nothing of 96 x 96 pixels or more.
    assert "box_APl" not in metrics
    assert manifest.facts["metrics_without_ground_truth"] == [
        f"{kind}_{size}" for kind in ("box", "mask") for size in ("APm", "APl")
    ]
    assert all(0 <= value <= 100 for value in metrics.values())
    assert {(r.task, r.protocol, r.unit, r.n, r.dataset) for r in records} == {
        ("detect", "tiny", "%", 4, "scenes")
    }
    assert records[0].artifact == read_manifest(backbone).digest
    assert manifest.facts["train_images"] == 8
    parts = manifest.facts["mmengine"]
    assert parts["model"]["backbone"] == {"type": "steps.detection.backbone.ViTDet"}
    assert parts["model"]["roi_head"]["bbox_head"]["conv_out_channels"] == 8
    assert parts["train_dataloader"]["dataset"]["augmentation"]["scale_jitter"] == [0.5, 1.5]
    assert parts["param_scheduler"][0]["type"] == "LinearLR"
    assert {path.name for path in out.parent.iterdir()} == {"detect.json", "detect.parquet"}
    decided = read_decisions(out.with_suffix(".parquet"), manifest.facts["decisions"])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(scenes / "val.json"))
        for name, number in KINDS.items():
            again = average_precision(truth, in_coco_format(truth, decided, number), number)
            assert {f"{name}_{each}": value for each, value in again.items()}.items() <= (
                metrics.items()
            )
    assert capsys.readouterr().out == ""
    assert list(read_manifest(pictures, "detect").files) == ["detections.png"]
    sheet = Image.open(pictures / "detections.png")
    # Four validation images of at least 420 pixels, each twice.
    assert sheet.width > 840
    assert sheet.height > 840


def test_a_classification_dataset_is_refused(
    protocol: Path, backbone: Path, scenes: Path, tmp_path: Path
) -> None:
    manifest = json.loads((scenes / "manifest.json").read_text())
    manifest["facts"]["kind"] = "classification"
    other = tmp_path / "images"
    other.mkdir()
    (other / "manifest.json").write_text(json.dumps(manifest))
    flags = ["--protocol", protocol, "--backbone", backbone, "--data", other, "--out", "x.json"]
    with pytest.raises(UserError, match=r"a dataset of kind classification .* detection"):
        main([str(flag) for flag in flags])


@pytest.mark.parametrize(
    "path",
    [
        path
        for kind in ("mask_rcnn", "cascade")
        for path in sorted((ROOT / "params" / "protocols").glob(f"*{kind}*.yaml"))
    ],
    ids=lambda path: path.stem,
)
def test_protocols_of_the_repository(path: Path) -> None:
    params = load(path, Detection)
    assert path.read_text().startswith("#"), "a protocol opens with what to expect of it"
    assert params.resolved()["optimizer"]["lr"] > 0


def test_strides_have_to_double(small_values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        yaml.safe_dump({**small_values, "pyramid": {"channels": 8, "strides": [4, 8, 32]}})
    )
    with pytest.raises(UserError, match=r"pyramid.*twice the one before"):
        load(path, Detection)
