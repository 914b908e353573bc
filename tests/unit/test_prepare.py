"""The step ``prepare`` as a command: params in, a whole artifact or nothing out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from steps.artifacts import verify
from steps.command import UserError
from steps.data.shards import Images
from steps.params.dataset import Dataset
from steps.params.load import load
from steps.prepare import main

SHAPES = {
    "format": "shapes",
    "kind": "classification",
    "seed": 3,
    "image_size": 32,
    "train": 20,
    "val": 10,
    "objects": [1, 1],
    "radii": [[5.0, 8.0]],
    "strokes": [0, 1],
    "foreground": {"saturation": 0.7, "value": [1.0, 1.1], "contrast": 0.2},
    "background": {"saturation": 0.6, "value": [0.2, 0.4], "contrast": 0.2},
    "clutter": [1, 3],
}
DATASETS = Path(__file__).parents[2] / "params" / "datasets"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("PRETEXT_DATA", str(folder))
    return folder


def _prepare(tmp_path: Path, params: dict[str, object], out: str = "out") -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(params))
    main(["--dataset", str(file), "--out", str(tmp_path / out)])
    return tmp_path / out


@pytest.mark.parametrize("path", sorted(DATASETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_params_file_is_valid_and_introduces_itself(path: Path) -> None:
    load(path, Dataset)  # type: ignore[arg-type]
    assert path.read_text().startswith("# ")
    assert (
        f"--dataset params/datasets/{path.name} --out results/data/{path.stem}" in path.read_text()
    )


def test_a_classification_artifact(tmp_path: Path) -> None:
    out = _prepare(tmp_path, SHAPES)
    manifest = verify(out)
    assert manifest.node == "prepare"
    assert sorted(manifest.files) == ["train.arrow", "val.arrow"]
    assert manifest.facts["dataset"] == "tiny"
    assert manifest.facts["splits"] == {
        "train": {"images": 20, "per_class": [2] * 10, "captions": 100},
        "val": {"images": 10, "per_class": [1] * 10, "captions": 50},
    }
    assert manifest.params["radii"] == [[5.0, 8.0]]
    assert len(Images(out, "train").captions(0)) == 5


def test_a_detection_artifact(tmp_path: Path) -> None:
    out = _prepare(tmp_path, SHAPES | {"kind": "detection", "objects": [1, 3]})
    manifest = verify(out)
    assert sorted(manifest.files) == ["train.arrow", "train.json", "val.arrow", "val.json"]
    content = json.loads((out / "train.json").read_text())
    images = Images(out, "train")
    assert [image["file_name"] for image in content["images"]] == images.ids
    assert [image["id"] for image in content["images"]] == list(range(1, 21))
    assert len(content["annotations"]) == manifest.facts["splits"]["train"]["boxes"]
    assert [category["name"] for category in content["categories"]] == manifest.facts["classes"]
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(
        content["annotations"]
    )


def test_twice_the_same_gives_the_same_digest(tmp_path: Path) -> None:
    digests = {verify(_prepare(tmp_path, SHAPES, out)).digest for out in ("one", "two")}
    assert len(digests) == 1


def test_captions_of_coco(tmp_path: Path, root: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "JPEG")
    (root / "images").mkdir()
    (root / "images" / "1.jpg").write_bytes(file.getvalue())
    image = {"id": 1, "file_name": "1.jpg", "width": 8, "height": 6}
    captions = [{"id": i, "image_id": 1, "caption": text} for i, text in enumerate(("one", "two"))]
    (root / "captions.json").write_text(json.dumps({"images": [image], "annotations": captions}))
    files = {"images": "images", "annotations": "captions.json"}
    params = {"format": "coco_captions", "train": files, "val": files}
    out = _prepare(tmp_path, params)
    assert Images(out, "val").captions(0) == ["one", "two"]
    assert verify(out).facts["splits"]["val"] == {"images": 1, "captions": 2}

    captions[1]["caption"] = " "
    (root / "captions.json").write_text(json.dumps({"images": [image], "annotations": captions}))
    with pytest.raises(UserError, match=r"train 1\.jpg: unreadable caption ' '"):
        _prepare(tmp_path, params)
    skipped = _prepare(tmp_path, params | {"on_bad": "skip", "max_bad_share": 0.4})
    assert Images(skipped, "val").captions(0) == ["one"]


def test_bad_data_leave_nothing_behind(tmp_path: Path, root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "cat").mkdir(parents=True)
        (root / split / "cat" / "1.jpg").write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"tiny\.yaml: 3 bad items, nothing written: train cat/1\.jpg: not"
    ):
        _prepare(tmp_path, {"format": "folder", "train": "train", "val": "val"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiny.yaml"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"radius": 3}, "unknown key 'radius'"),
        ({"seed": "0"}, "'seed' is '0'"),
        ({"format": "zip"}, "format"),
        ({"objects": [1, 2]}, r"set objects to \[1, 1\]"),
        ({"radii": [[5.0, 20.0]]}, "above half the image_size"),
        ({"clutter": [3, 1]}, "clutter: 3 is above 1"),
        ({"on_bad": "skip"}, "max_bad_share must be above 0"),
        ({"max_bad_share": 0.1}, "remove it"),
    ],
)
def test_wrong_params_stop_before_any_work(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _prepare(tmp_path, SHAPES | changed)
    assert not (tmp_path / "out").exists()


def test_missing_data_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file matches.*parquet files with the columns image"):
        main(["--dataset", str(DATASETS / "cifar10.yaml"), "--out", str(tmp_path / "out")])
