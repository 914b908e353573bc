"""Images of other channels and bits: decoded without loss, refused by name, stored, viewed."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torchvision.io import encode_png

from steps.command import UserError
from steps.data import bands
from steps.data.bands import Form, Sums, decode_bands, form_of, is_packed, pack, unpack
from steps.data.checks import Decoded, check_image
from steps.data.decoding import UnfitImageError, decode
from steps.data.loader import BatchPlan, TrainingViews, training_batches
from steps.data.shards import Images, ShardWriter
from steps.data.sources import Item
from steps.data.views import evaluation_view, make_views, normalise
from steps.params.sets import GROUND, MAX_PIXELS
from steps.params.views import Blur, Jitter, SecondImage, View
from tests.faults.builders_data import png

RNG = np.random.default_rng(0)
WIDE = RNG.integers(0, 65536, (4, 20, 30), dtype=np.uint16)
"""(C, H, W)."""
FOUR = Form(4, 16)


def tiff(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def picture(array: Any, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


def decoded(encoded: bytes, channels: int, bits: int) -> Any:
    return decode_bands(encoded, Form(channels, bits), MAX_PIXELS).array


LAST = np.ascontiguousarray(WIDE.transpose(1, 2, 0))
PLAIN = {"photometric": "minisblack"}


@pytest.mark.parametrize(
    "encoded",
    [
        tiff(WIDE, planarconfig="separate", **PLAIN),
        tiff(LAST, planarconfig="contig", **PLAIN),
        tiff(LAST, planarconfig="contig", compression="zlib", predictor=True, **PLAIN),
        tiff(LAST, photometric="rgb"),
        tiff(WIDE, byteorder=">", planarconfig="separate", **PLAIN),
        tiff(WIDE, bigtiff=True, planarconfig="separate", **PLAIN),
        tiff(WIDE, **PLAIN),  # four pages
        tiff(WIDE, imagej=True),
        tiff(WIDE, ome=True, metadata={"axes": "CYX"}),
        npy(WIDE),
        npy(LAST),
        npy(np.asfortranarray(WIDE)),
        npy(WIDE.astype(">u2")),
    ],
)
def test_four_bands_of_16_bits_are_read_without_loss(encoded: bytes) -> None:
    array = decoded(encoded, 4, 16)
    assert array.dtype == np.uint16
    assert np.array_equal(array, WIDE)


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (tiff(WIDE[0]), WIDE[:1]),
        (npy(WIDE[0]), WIDE[:1]),
        (npy(LAST[:, :, :1]), WIDE[:1]),
        (picture(WIDE[0]), WIDE[:1]),
        (png(LAST[:, :, :3], 2), WIDE[:3]),
        (png(LAST, 6), WIDE),
        (tiff(65535 - WIDE[0], photometric="miniswhite"), WIDE[:1]),
    ],
)
def test_other_files_of_16_bits(encoded: bytes, expected: Any) -> None:
    assert np.array_equal(decoded(encoded, len(expected), 16), expected)


BYTES = (WIDE >> 8).astype(np.uint8)


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (picture(BYTES[0]), BYTES[:1]),
        (picture(BYTES.transpose(1, 2, 0)), BYTES),  # the alpha channel is data
        (picture(BYTES.transpose(1, 2, 0)[:, :, :2]), BYTES[:2]),
        (npy(BYTES[:2]), BYTES[:2]),
        (
            tiff(np.tile(BYTES, (2, 1, 1)), planarconfig="separate", **PLAIN),
            np.tile(BYTES, (2, 1, 1)),
        ),
        (bytes(encode_png(torch.from_numpy(BYTES[:1])).numpy()), BYTES[:1]),
    ],
)
def test_other_numbers_of_channels_of_8_bits(encoded: bytes, expected: Any) -> None:
    assert np.array_equal(decoded(encoded, len(expected), 8), expected)


@pytest.mark.parametrize(
    ("encoded", "fault"),
    [
        (tiff(WIDE[:3], planarconfig="separate", **PLAIN), "3 channels; channels is 4 in the"),
        (tiff(WIDE[0]), "1 channel; channels is 4"),
        (npy(WIDE[:3]), "an array of 3x20x30, of which neither the first nor the last axis has 4"),
        (npy(WIDE[:, :, :4]), "4x20x4, whose first and last axis may both be its channels"),
        (npy(WIDE[None]), "an array of 1x4x20x30; height, width and channels, or"),
        (npy(BYTES), "8 bits a channel; bits is 16 in the dataset's params, and a set has one"),
        (npy(WIDE.astype(np.float32)), "values of float32; uint8 or uint16 is needed"),
        (npy(WIDE.astype(np.int16)), "values of int16"),
        (npy(WIDE > 9), "values of bool"),
        (tiff(WIDE.astype(np.float32), planarconfig="separate", **PLAIN), "values of float32"),
        (tiff(WIDE, imagej=True, metadata={"axes": "ZYX"}), "a stack of 4x20x30 along Z"),
        (npy(WIDE[:, :0]), "30x0 pixels; at least one"),
        (npy(WIDE).replace(b"(4, 20, 30)", b"(4, -1, 30)"), "30x-1 pixels; at least one"),
        (picture(BYTES[0]), "8 bits a channel; bits is 16"),
        (picture(BYTES[0] % 2 == 0), "an image of mode 1"),
        (b"nothing", "not an image of a known format"),
    ],
)
def test_what_does_not_fit_is_named(encoded: bytes, fault: str) -> None:
    with pytest.raises(UnfitImageError) as caught:
        decode_bands(encoded, FOUR, MAX_PIXELS)
    assert fault in str(caught.value)


@pytest.mark.parametrize("encoded", [tiff(WIDE), npy(WIDE), picture(BYTES[0])])
def test_too_many_pixels_are_not_decoded(encoded: bytes) -> None:
    with pytest.raises(UnfitImageError, match="30x20 pixels are more than max_pixels, 599"):
        decode_bands(encoded, FOUR, 599)


def test_a_header_that_claims_much_takes_no_memory() -> None:
    file = io.BytesIO()
    claims = {"shape": (4, 20_000_000_000, 30), "fortran_order": False, "descr": "<u2"}
    np.lib.format.write_array_header_1_0(file, claims)
    assert form_of(file.getvalue()) == FOUR
    with pytest.raises(UnfitImageError, match="30x20000000000 pixels are more than max_pixels"):
        decode_bands(file.getvalue(), FOUR, MAX_PIXELS)


@pytest.mark.parametrize(
    "whole", [tiff(WIDE, planarconfig="separate", **PLAIN), npy(WIDE), png(LAST, 6)]
)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_damaged_file_is_a_named_problem(whole: bytes, share: float) -> None:
    part = whole[: max(9, int(share * len(whole)))]
    found = check_image(Item("a", lambda: part), form=FOUR)
    assert isinstance(found, str)


def test_a_missing_package_names_the_line_that_installs_it(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match="tifffile, which reads it, is not installed"):
        check_image(Item("a", lambda: tiff(WIDE)), form=FOUR)


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation(value: int) -> None:
    """Images are turned as those of RGB are."""
    grey, exif = BYTES[0], Image.Exif()
    exif[0x0112] = value
    usual = decode(picture(grey, exif=exif), GROUND, MAX_PIXELS)
    expected = np.asarray(usual.rgb)[:, :, 0]
    for encoded in (
        picture(grey, exif=exif),
        tiff(grey, extratags=[(274, "H", 1, value, True)]),
    ):
        found = decode_bands(encoded, Form(1, 8), MAX_PIXELS)
        assert found.turned is usual.turned
        assert np.array_equal(found.array[0], expected)


def test_what_is_stored_is_what_was_read() -> None:
    result = check_image(Item("a", lambda: tiff(WIDE)), form=FOUR)
    assert isinstance(result, Decoded)
    assert is_packed(result.encoded)
    assert np.array_equal(unpack(result.encoded), WIDE)
    assert (result.width, result.height, result.histogram) == (30, 20, [])
    other = check_image(Item("b", lambda: npy(LAST)), form=FOUR)
    assert isinstance(other, Decoded)
    assert other.digest == result.digest
    assert not is_packed(picture(BYTES[0]))
    assert np.array_equal(unpack(pack(BYTES)), BYTES)


def test_shrinking_keeps_values_and_depth() -> None:
    flat = np.broadcast_to(
        np.array([0, 700, 40_000, 65_535], np.uint16)[:, None, None], (4, 40, 80)
    )
    result = check_image(Item("a", lambda: npy(flat)), resize_short_side=10, form=FOUR)
    assert isinstance(result, Decoded)
    array = unpack(result.encoded)
    assert array.shape == (4, 10, 20)
    assert np.array_equal(array, flat[:, :10, :20])


@pytest.mark.parametrize("bits", [8, 16])
def test_sums_give_mean_and_deviation(bits: int) -> None:
    array = WIDE if bits == 16 else BYTES
    sums = Sums.of(array[:, :10]) + Sums.of(array[:, 10:])
    mean, std = sums.mean_and_std(bits)
    values = array.reshape(4, -1) / (2**bits - 1)
    assert mean == pytest.approx(values.mean(axis=1), abs=1e-9)
    assert std == pytest.approx(values.std(axis=1), abs=1e-9)
    constant = Sums.of(np.full((1, 99, 77), 54_321, np.uint16))
    assert constant.mean_and_std(16)[1] == [0.0]


# --- Views


def _rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_16_bits_are_viewed_as_8_are() -> None:
    """Values of 16 bits that 8 could hold give the views of 8, and the same after normalising."""
    narrow = RNG.integers(0, 256, (5, 40, 50), dtype=np.uint8)
    wide = narrow.astype(np.uint16) * 257
    view = View(
        area=[0.3, 0.9],
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.0, hue=0.0),
        blur=Blur(probability=1.0, kernel=5),
        second=SecondImage(size=8),
        order=["jitter", "blur", "flip", "crop"],
    )
    for views in ([view], [View(area=[0.3, 0.9], count=2, blur=Blur(probability=1.0))]):
        ours = make_views(narrow, views, 16, _rng())
        deep = make_views(wide, views, 16, _rng())
        assert [each.dtype for each in ours + deep] == [torch.uint8] * 2 + [torch.uint16] * 2
        assert [each.shape for each in ours] == [each.shape for each in deep]
        for one, other in zip(ours, deep, strict=True):
            mean, std = [0.5] * 5, [0.25] * 5
            gap = normalise(one[None], mean, std) - normalise(other[None], mean, std)
            assert float(gap.abs().max()) < 4 * 1.6 / 255  # one is rounded to 8 bits on the way


def test_evaluation_views() -> None:
    """Three channels of 8 bits give Pillow's pixels; 16 bits keep what 8 would round off."""
    array = RNG.integers(0, 256, (3, 40, 50), dtype=np.uint8)
    image = Image.fromarray(array.transpose(1, 2, 0))
    assert torch.equal(evaluation_view(array, 16, 0.875), evaluation_view(image, 16, 0.875))
    wide = evaluation_view(array.astype(np.uint16) * 257, 16, 0.875)
    gap = wide.float() / 257 - evaluation_view(image, 16, 0.875).float()
    assert wide.dtype == torch.uint16
    assert 0 < float(gap.abs().max()) <= 1.01
    whole = evaluation_view(WIDE[:, :, :20], 20, 1.0)
    assert torch.equal(whole, torch.from_numpy(WIDE[:, :, :20].copy()))


def test_views_of_the_whole_image_keep_16_bits() -> None:
    square = WIDE[:, :, :20].copy()
    whole = View(area=[1.0, 1.0], aspect=[1.0, 1.0], flip=0.0)
    (view,) = make_views(square, [whole], 20, _rng())
    assert torch.equal(view, torch.from_numpy(square))
    (mirrored,) = make_views(square, [whole.model_copy(update={"flip": 1.0})], 20, _rng())
    assert torch.equal(mirrored, torch.from_numpy(square[:, :, ::-1].copy()))


def test_images_of_other_channels_are_no_pictures(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "train.arrow", labels=False, captions=False) as writer:
        writer.add("a", pack(WIDE), 30, 20)
    images = Images(tmp_path, "train")
    assert np.array_equal(images.pixels(0), WIDE)
    with pytest.raises(UserError, match="images of 4 channels of 16 bits"):
        images.image(0)


def test_the_group_is_in_the_lock() -> None:
    root = Path(__file__).parents[3]
    assert bands.INSTALL.endswith(" bands")
    assert "bands = [" in (root / "pyproject.toml").read_text()


def test_a_loading_process_gives_what_the_own_process_gives(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "train.arrow", labels=False, captions=False) as writer:
        for index in range(4):
            writer.add(str(index), pack(np.roll(WIDE, index, axis=2)), 30, 20)
    views = TrainingViews(tmp_path, [View(area=[0.4, 1.0], count=2)], 8, seed=0)
    plan = BatchPlan(4, 0, 1, 1)
    own, other = (
        next(training_batches(views, plan, seed=0, start=0, stop=1, workers=workers))
        for workers in (0, 1)
    )
    assert [view.dtype for view in own.views] == [torch.uint16] * 2
    assert all(torch.equal(a, b) for a, b in zip(own.views, other.views, strict=True))
