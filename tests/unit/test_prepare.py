"""The step ``prepare`` as a command: params in, a whole artifact or nothing out."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
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
    Image.effect_noise((8, 6), 50).convert("RGB").save(file, "JPEG")
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


# --- Other channels and bits


BANDS = {"format": "images", "train": "train", "val": {"share": 0.25}, "channels": 4, "bits": 16}


def _bands(root: Path, channels: int = 4, count: int = 8, *, kind: str = "npy") -> None:
    rng = np.random.default_rng(channels)
    for index in range(count):
        pixels = rng.integers(0, 4096, (channels, 20, 30), dtype=np.uint16)
        path = root / f"train/{kind}{channels}-{index}.{kind}"
        path.parent.mkdir(exist_ok=True)
        if kind == "npy":
            np.save(path, pixels)
        else:
            tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="separate")


@pytest.mark.parametrize("kind", ["npy", "tif"])
def test_four_bands_of_16_bits(tmp_path: Path, root: Path, kind: str) -> None:
    _bands(root, kind=kind)
    out = _prepare(tmp_path, BANDS)
    facts = verify(out).facts
    assert (facts["channels"], facts["bits"]) == (4, 16)
    images = Images(out, "train")
    pixels = np.stack([images.pixels(index) for index in range(len(images))]).astype(float)
    assert pixels.max() > 255
    channels = pixels.transpose(1, 0, 2, 3).reshape(4, -1) / 65535
    assert facts["mean"] == pytest.approx(channels.mean(axis=1), abs=1e-8)
    assert facts["std"] == pytest.approx(channels.std(axis=1), abs=1e-8)
    again = _prepare(tmp_path, BANDS, "again")
    assert verify(again).digest == verify(out).digest


def test_mixed_channels_and_depths_are_named(tmp_path: Path, root: Path) -> None:
    _bands(root)
    _bands(root, channels=3, count=1, kind="tif")
    np.save(root / "train/shallow.npy", np.zeros((4, 20, 30), np.uint8))
    with pytest.raises(UserError) as caught:
        _prepare(tmp_path, BANDS)
    message = str(caught.value)
    assert "shallow.npy: 8 bits a channel; bits is 16 in the dataset's params" in message
    assert "tif3-0.tif: 3 channels; channels is 4 in the dataset's params" in message
    assert not (tmp_path / "out").exists()
    out = _prepare(tmp_path, BANDS | {"on_bad": "skip", "max_bad_share": 0.5})
    assert len(verify(out).facts["problems"]) == 2


@pytest.mark.parametrize("rgb", [True, False])
def test_a_channel_of_one_value_is_named(tmp_path: Path, root: Path, rgb: bool) -> None:
    rng = np.random.default_rng(0)
    (root / "train").mkdir()
    for index in range(4):
        pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
        pixels[:, :, 1] = 7
        if rgb:
            Image.fromarray(pixels).save(root / f"train/{index}.png")
        else:
            np.save(root / f"train/{index}.npy", pixels.astype(np.uint16))
    params = {**BANDS, "channels": 3, "bits": 8 if rgb else 16}
    with pytest.raises(UserError) as caught:
        _prepare(tmp_path, params)
    message = str(caught.value)
    assert "tiny.yaml: channel 2 of 3 has one value in all training images" in message
    assert "remedy: leave the channel out of the files and give their number as channels" in message
    assert not (tmp_path / "out").exists()


def test_arrays_are_no_photographs(tmp_path: Path, root: Path) -> None:
    """Without channels in the params, NumPy's files are not images."""
    _bands(root)
    with pytest.raises(UserError, match=r"no image, other files: \{'\.npy': 8\}"):
        _prepare(tmp_path, {key: BANDS[key] for key in ("format", "train", "val")})


def test_missing_data_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file matches.*parquet files with the columns image"):
        main(["--dataset", str(DATASETS / "cifar10.yaml"), "--out", str(tmp_path / "out")])
