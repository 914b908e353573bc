"""Large images cut into tiles: places, pixels, names, splits, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.data.bands import unpack
from steps.data.checks import check_image, cut_image
from steps.data.shards import Images
from steps.data.sources import Item
from steps.params.dataset import FolderDataset, ImagesDataset
from steps.params.sets import Tiles
from steps.prepare import main as prepare


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETEXT_DATA", str(tmp_path))
    return tmp_path


def noise(width: int, height: int, kind: str = "PNG", seed: int = 0) -> tuple[np.ndarray, bytes]:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return pixels, file.getvalue()


def item(encoded: bytes) -> Item:
    return Item("a.png", lambda: encoded)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 1000])
@pytest.mark.parametrize("overlap", [0, 1, 20, 63])
def test_tiles_cover_an_image_and_share_what_they_should(length: int, overlap: int) -> None:
    places = Tiles(side=64, overlap=overlap).places(length, 64)
    assert {top for _, top in places} == {0}
    lefts = [left for left, _ in places]
    assert lefts[0] == 0
    assert lefts[-1] == max(length - 64, 0)
    steps = np.diff(lefts)
    assert (steps > 0).all()
    assert (steps <= 64 - overlap).all()
    # No more of them than are needed.
    assert len(lefts) == max(1, -(-(length - overlap) // (64 - overlap)))


def test_tiles_are_the_pixels_of_their_places() -> None:
    pixels, encoded = noise(150, 90)
    tiles = cut_image(item(encoded), Tiles(side=64))
    assert isinstance(tiles, list)
    assert [tile.place for tile in tiles] == [
        (left, top) for top in (0, 26) for left in (0, 43, 86)
    ]
    for tile in tiles:
        assert tile.place is not None
        left, top = tile.place
        found = np.asarray(Image.open(io.BytesIO(tile.encoded)))
        np.testing.assert_array_equal(found, pixels[top : top + 64, left : left + 64])
        assert (tile.width, tile.height, sum(tile.histogram)) == (64, 64, 3 * 64 * 64)
    assert len({tile.digest for tile in tiles}) == 6


def test_a_narrow_image_is_cut_along_one_side_and_a_small_one_not_at_all() -> None:
    _, narrow = noise(200, 40)
    tiles = cut_image(item(narrow), Tiles(side=64))
    assert isinstance(tiles, list)
    assert [(tile.width, tile.height) for tile in tiles] == [(64, 40)] * 4
    _, small = noise(64, 40, "JPEG")
    assert cut_image(item(small), Tiles(side=64)) == [check_image(item(small))]


def test_formats_are_kept_in_kind_and_damage_is_named() -> None:
    _, photo = noise(130, 64, "JPEG")
    tiles = cut_image(item(photo), Tiles(side=64))
    assert isinstance(tiles, list)
    assert [Image.open(io.BytesIO(tile.encoded)).format for tile in tiles] == ["JPEG"] * 3
    assert cut_image(item(photo[:500]), Tiles(side=64)) == check_image(item(photo[:500]))
    assert "not an image" in str(cut_image(item(b"x"), Tiles(side=64)))


def test_turned_images_are_cut_upright_and_noted_once() -> None:
    pixels, _ = noise(100, 50)
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    tiles = cut_image(item(file.getvalue()), Tiles(side=50))
    assert isinstance(tiles, list)
    upright = np.rot90(pixels, -1)
    for tile, top in zip(tiles, (0, 50), strict=True):
        found = np.asarray(Image.open(io.BytesIO(tile.encoded)))
        np.testing.assert_array_equal(found, upright[top : top + 50])
    assert [tile.notes for tile in tiles] == [("turned",), ()]


def test_empty_tiles_of_two_images_are_not_the_same_image() -> None:
    blank = np.zeros((64, 128, 3), np.uint8)
    digests = []
    for mark in (1, 2):
        blank[0, 0] = mark
        file = io.BytesIO()
        Image.fromarray(blank).save(file, "PNG")
        tiles = cut_image(item(file.getvalue()), Tiles(side=64))
        assert isinstance(tiles, list)
        digests += [tile.digest for tile in tiles]
    assert len(set(digests)) == 4


def test_arrays_are_cut_without_loss(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "fields").mkdir()
    arrays = [rng.integers(0, 2**16, (4, 80, 100), dtype=np.uint16) for _ in range(4)]
    for index, array in enumerate(arrays):
        np.save(root / f"fields/{index}.npy", array)
    facts, train = _prepared(root, "fields", channels=4, bits=16)
    assert facts["splits"]["train"] == {"images": 12, "cut": 3}
    assert (facts["channels"], len(facts["mean"])) == (4, 4)
    for row, name in enumerate(train.ids):
        whole, _, place = name.partition("@")
        left, top = map(int, place.split(","))
        source = arrays[int(whole.removesuffix(".npy"))]
        found = unpack(train.encoded(row))
        np.testing.assert_array_equal(found, source[:, top : top + 64, left : left + 64])


def _prepared(root: Path, folder: str, **params: Any) -> tuple[dict[str, Any], Images]:
    lines = {"format": "images", "train": folder, "val": {"share": 0.25}, "tiles": {"side": 64}}
    (root / "set.yaml").write_text(
        "".join(f"{key}: {value}\n" for key, value in (lines | params).items())
    )
    prepare(["--dataset", str(root / "set.yaml"), "--out", str(root / "out")])
    return read_manifest(root / "out").facts, Images(root / "out", "train")


def test_a_prepared_set_has_tiles_and_no_image_in_both_splits(root: Path) -> None:
    (root / "photos").mkdir()
    for index in range(8):
        (root / f"photos/{index}.png").write_bytes(noise(128, 64 + index, seed=index)[1])
    facts, train = _prepared(root, "photos")
    val = Images(root / "out", "val")
    of = [{name.partition("@")[0] for name in part.ids} for part in (train, val)]
    assert len(of[0] | of[1]) == 8
    assert not of[0] & of[1]
    assert facts["splits"]["train"]["cut"] == len(of[0])
    assert facts["splits"]["train"]["images"] == len(train.ids)
    assert "0.png@64,0" in {*train.ids, *val.ids}
    assert "in_both" not in facts


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"tiles": {"side": 64, "overlap": 64}}, "overlap: 64 must be below side, 64"),
        ({"tiles": {"side": 0}}, "greater than or equal to 1"),
        ({"tiles": {"side": 64}, "resize_short_side": 32}, "tiles and resize_short_side exclude"),
    ],
)
def test_params_that_make_no_tiles(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ImagesDataset(format="images", train="x", val="y", **params)


def test_labelled_sets_have_no_tiles_and_other_sets_no_such_key() -> None:
    with pytest.raises(ValidationError, match="tiles"):
        FolderDataset.model_validate(
            {"format": "folder", "train": "x", "val": "y", "tiles": {"side": 64}}
        )
    assert "tiles" not in ImagesDataset(format="images", train="x", val="y").model_dump()


def test_too_many_pixels_are_named_before_they_are_cut(root: Path) -> None:
    (root / "photos").mkdir()
    for index in range(4):
        (root / f"photos/{index}.png").write_bytes(noise(100, 100, seed=index)[1])
    with pytest.raises(UserError, match="100x100 pixels are more than max_pixels, 99"):
        _prepared(root, "photos", max_pixels=99)
