"""Semantic masks in folders: the layouts of ADE20K, VOC and Cityscapes, and bad masks by name."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.data.annotations import IGNORED
from steps.data.semantic import MaskError, StoredMasks, encode_mask, pixel_classes
from steps.data.shards import Images
from steps.data.sources import open_source
from steps.params.dataset import MasksDataset
from steps.params.load import read_yaml, validate
from steps.prepare import main as prepare

SIZE = (8, 6)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETEXT_DATA", str(tmp_path))
    return tmp_path


def image(path: Path, value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", SIZE, (value, 9, 9))
    picture.putpixel((0, 0), (9, 99, 199))  # no channel of one value
    picture.save(path)


def mask(path: Path, values: Any, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.broadcast_to(np.array(values, np.uint8), SIZE[::-1])
    drawn = Image.fromarray(pixels.copy())
    if mode == "P":
        drawn = Image.fromarray(pixels.copy(), mode="P")
        drawn.putpalette([(31 * index) % 256 for index in range(768)])
    drawn.save(path)


def voc(root: Path) -> dict[str, Any]:
    """Palette masks with a list of names; an image without a mask is not on it."""
    for index in range(4):
        image(root / f"voc/JPEGImages/{index}.jpg", index)
    for index in range(3):
        mask(root / f"voc/SegmentationClass/{index}.png", [0, 1, 2, 255] * 2, "P")
    (root / "voc/train.txt").write_text("0\n1\n")
    (root / "voc/val.txt").write_text("2\n")
    folders = {"images": "voc/JPEGImages", "masks": "voc/SegmentationClass"}
    return {
        "format": "masks",
        "train": {**folders, "names": "voc/train.txt"},
        "val": {**folders, "names": "voc/val.txt"},
        "classes": ["background", "cat", "dog"],
    }


def ade(root: Path) -> dict[str, Any]:
    """Grey masks that count from 1; 0 is ignored."""
    for index in range(4):
        image(root / f"ade/images/{index}.jpg", index)
        mask(root / f"ade/annotations/{index}.png", [1, 2, 3, 0] * 2)
    return {
        "format": "masks",
        "train": {"images": "ade/images", "masks": "ade/annotations"},
        "val": {"share": 0.3},
        "classes": ["background", "wall", "sky"],
        "first_value": 1,
        "ignore": [0],
    }


def cityscapes(root: Path) -> dict[str, Any]:
    """Endings of image and mask differ, values have gaps, all others are ignored."""
    for split, count in (("train", 2), ("val", 1)):
        for index in range(count):
            stem = f"{split}/aachen/a_{index}"
            image(root / f"left/{stem}_leftImg8bit.png", index + count)
            mask(root / f"fine/{stem}_labelIds.png", [7, 11, 23, 4] * 2)
            mask(root / f"fine/{stem}_color.png", 0)
    return {
        "format": "masks",
        "train": {"images": "left/train", "masks": "fine/train"},
        "val": {"images": "left/val", "masks": "fine/val"},
        "classes": ["background", "building", "sky"],
        "values": [7, 11, 23],
        "ignore": "others",
        "image_ending": "_leftImg8bit.png",
        "mask_ending": "_labelIds.png",
    }


def prepared(root: Path, values: dict[str, Any]) -> Path:
    params = root / "mine.yaml"
    params.write_text(str(values).replace("'", '"'))
    assert read_yaml(params)
    prepare(["--dataset", str(params), "--out", str(root / "out")])
    return root / "out"


@pytest.mark.parametrize("layout", [voc, ade, cityscapes])
def test_layouts_are_prepared(root: Path, layout: Any) -> None:
    out = prepared(root, layout(root))
    facts = read_manifest(out).facts
    assert facts["kind"] == "masks"
    train = facts["splits"]["train"]
    assert train["pixels"] == [train["images"] * 12] * 3
    masks = pixel_classes(out, "val")
    assert isinstance(masks, StoredMasks)
    assert masks.classes == tuple(facts["classes"])
    assert len(masks) == len(Images(out, "val")) == 1
    np.testing.assert_array_equal(masks[0], np.broadcast_to([0, 1, 2, IGNORED] * 2, SIZE[::-1]))
    assert masks[0].dtype == np.uint8
    assert Images(out, "train").target is None  # methods without labels train on it


def test_what_is_wrong_with_a_pair_is_named(root: Path) -> None:
    values = voc(root)
    (root / "voc/train.txt").write_text("0\n3\nlost\n")
    problems = [
        (item.id, item.problem)
        for item in open_source(validate(values, MasksDataset, "x")).items("train", range(3))
    ]
    place = root / "voc/SegmentationClass/3.png"
    assert problems == [
        ("0.jpg", None),
        ("3.jpg", f"its mask {place}: no such file"),
        ("lost", "no such image"),
    ]


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda path: path.unlink(), r"its mask .*0\.png: no such file"),
        (
            lambda path: Image.new("L", (6, 8)).save(path),
            "its mask has 6x8 pixels, and the image has 8x6",
        ),
        (
            lambda path: mask(path, [0, 1, 2, 3] * 2),
            r"its mask has the value 3, of no class \(values 0 to 2; ignored: 255\)",
        ),
        (
            lambda path: Image.new("RGB", SIZE).save(path),
            r"its mask is a PNG of colours \(RGB\), not of one value per pixel",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "its mask is no whole PNG"),
        (lambda path: Image.new("L", SIZE).save(path, "JPEG"), "its mask is no whole PNG"),
    ],
)
def test_bad_masks_stop_prepare_in_a_line(root: Path, spoil: Any, found: str) -> None:
    values = voc(root)
    spoil(root / "voc/SegmentationClass/0.png")
    with pytest.raises(UserError, match=f"1 bad item, nothing written: train .*{found}"):
        prepared(root, values)
    assert not (root / "out").exists()
    out = prepared(root, {**values, "on_bad": "skip", "max_bad_share": 0.6})
    assert read_manifest(out).facts["splits"]["train"]["images"] == 1


def test_wide_values_are_read() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8), 300, np.uint16)).save(file, "PNG")
    encoded, counts = encode_mask(file.getvalue(), SIZE, {300: 0, 301: 1}, ())
    assert counts.tolist() == [48, 0]
    assert np.asarray(Image.open(io.BytesIO(encoded))).max() == 0
    with pytest.raises(MaskError, match="the value 300, of no class"):
        encode_mask(file.getvalue(), SIZE, {1: 0, 2: 1}, ())


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"values": [1, 2]}, "2 values for 3 classes"),
        ({"values": [1, 2, 2]}, "values has a value twice"),
        ({"values": [1, 2, 3], "first_value": 1}, "first_value has no effect"),
        ({"ignore": [2]}, "ignore names 2, which is the value of a class"),
        ({"classes": ["cat"]}, "classes"),
    ],
)
def test_values_that_contradict_each_other(root: Path, changes: Any, found: str) -> None:
    with pytest.raises(UserError, match=found):
        validate({**voc(root), **changes}, MasksDataset, "mine.yaml")


def test_a_folder_without_images(root: Path) -> None:
    values = cityscapes(root)
    values["image_ending"] = "_right.png"
    with pytest.raises(
        UserError, match=r"left/train: no image \| allowed: files that end in _right"
    ):
        prepared(root, values)
