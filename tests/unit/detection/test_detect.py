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
from pyarrow import parquet
from pycocotools.coco import COCO

from steps.artifacts import publish, read_manifest, read_records
from steps.artifacts.decisions import read_decisions
from steps.artifacts.manifest import ROOT
from steps.command import UserError
from steps.data.annotations import read_annotations
from steps.data.shards import Images
from steps.detect import main
from steps.evaluation.precision import KINDS, average_precision, in_coco_format
from steps.params.detection import Detection
from steps.params.load import load, validate
from tests.unit.detection.conftest import CLASSES


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


@pytest.fixture
def kept(
    small_values: dict[str, Any], protocol: Path, backbone: Path, scenes: Path, tmp_path: Path
) -> Path:
    """The pictures of a detection that kept its detector, and found something everywhere."""
    values = {
        **small_values,
        "epochs": 1,
        "keep_detector": True,
        "inference": {"score_threshold": 0.0},
    }
    protocol.write_text(yaml.safe_dump(values))
    pictures = tmp_path / "pictures"
    given = ("--protocol", protocol, "--backbone", backbone, "--data", scenes)
    main([str(word) for word in (*given, "--out", tmp_path / "d.json", "--pictures", pictures)])
    return pictures


def test_a_kept_detector_finds_objects_in_a_folder(
    kept: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decided = read_decisions(tmp_path / "d.parquet").table.to_pylist()
    photos, out = tmp_path / "photos", tmp_path / "found"
    val = Images(scenes, "val")
    for index in range(len(val)):
        path = photos / f"deep/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(val.encoded(index))
    (photos / "cut.png").write_bytes(val.encoded(0)[:60])
    given = ["--predict", str(kept), "--images", str(photos), "--out", str(out)]
    with pytest.raises(UserError, match=r"photos: cut\.png: .* --on-bad skip"):
        main([*given, "--min-score", "0.0"])
    assert not out.exists()
    for _ in range(2):  # the second run replaces the first one's folder
        main([*given, "--min-score", "0.0", "--on-bad", "skip", "--count", "2"])
    table = parquet.read_table(out / "predictions.parquet").to_pylist()
    assert capsys.readouterr().out.splitlines()[-1] == (f"{out}: {len(table)} objects on 4 images")
    # The same boxes as in the evaluation of the same images by the same weights.
    ids = {
        image["file_name"]: image["id"] for image in read_annotations(scenes / "val.json")["images"]
    }
    for index, name in enumerate(val.ids):
        there = [row for row in decided if row["image_id"] == ids[name]]
        found = [row for row in table if row["name"] == f"deep/{index}.png"]
        assert len(found) == len(there) > 0
        for one, other in zip(found, there, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)
            assert one["box"] == pytest.approx(other["box"], abs=1e-2)
            assert one["class"] == CLASSES[other["category"] // 3]
    content = json.loads((out / "predictions.json").read_text())
    assert len(content["annotations"]) == len(table)
    assert {image["file_name"] for image in content["images"]} == {
        f"deep/{index}.png" for index in range(4)
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out / "predictions.json"))
    assert coco.annToMask(content["annotations"][0]).shape == val.image(0).size[::-1]
    assert len(list((out / "pictures").glob("*.png"))) == 2
    assert read_manifest(out, "predict").facts == {
        "images": 4,
        "objects": len(table),
        "left_out": 1,
    }
    main([*given[:-1], str(tmp_path / "none"), "--min-score", "1.0", "--on-bad", "skip"])
    assert parquet.read_table(tmp_path / "none/predictions.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("detector", "images", "out", "said"),
    [
        ("pictures", "none", "found", "--images none: nothing there"),
        ("pictures", "empty", "found", "--images empty: an empty folder"),
        ("empty", "photos", "found", "--predict empty: no detection's folder"),
        ("plain", "photos", "found", r"--predict plain: no detector\.safetensors .*keep_detector"),
        ("pictures", "photos", "photos", "photos: a folder that is not an artifact"),
        ("pictures", "notes", "found", r"notes: no image, other files: \{'\.txt': 1\}"),
    ],
)
def test_bad_input_of_predictions_in_a_line(
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    detector: str,
    images: str,
    out: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "photos", "notes"):
        Path(name).mkdir()
    Path("notes/a.txt").write_text("no image")
    Image.new("RGB", (20, 30)).save("photos/a.png")
    with publish(Path("plain"), node="detect", params={}, inputs={}) as draft:
        (draft.path / "detections.png").write_bytes(b"")
    with pytest.raises(UserError, match=said):
        main(["--predict", detector, "--images", images, "--out", out])
    assert not Path("found").exists()
    assert [file.name for file in Path("photos").iterdir()] == ["a.png"]


def test_a_detector_needs_a_place_to_be_kept(
    small_values: dict[str, Any], protocol: Path, backbone: Path, scenes: Path
) -> None:
    protocol.write_text(yaml.safe_dump({**small_values, "keep_detector": True}))
    given = ("--protocol", protocol, "--backbone", backbone, "--data", scenes, "--out", "d.json")
    with pytest.raises(UserError, match="keep_detector: true, and the command has no --pictures"):
        main([str(word) for word in given])


def test_params_without_the_key_are_as_before(small_values: dict[str, Any]) -> None:
    values = validate(small_values, Detection, "here").resolved()
    assert "keep_detector" not in values


def test_options_of_predictions_need_each_other(
    protocol: Path, backbone: Path, scenes: Path
) -> None:
    given = ("--protocol", protocol, "--backbone", backbone, "--data", scenes, "--out", "d.json")
    with pytest.raises(UserError, match="--images: given without --predict"):
        main([*map(str, given), "--images", "photos"])
    with pytest.raises(UserError, match="--predict: given without --images"):
        main(["--predict", "pictures", "--out", "found"])


@pytest.mark.parametrize("words", [["--help"], ["--predict", ".", "--help"]])
def test_help_says_how_to_predict(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    said = capsys.readouterr().out
    assert "--predict" in said
    assert "--images" in said
