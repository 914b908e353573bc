"""What is wrong with an image, a label, a caption; and when that stops the step."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steps.command import UserError
from steps.data.checks import (
    Decoded,
    Tally,
    check_caption,
    check_image,
    check_label,
)
from steps.data.sources.source import Item


def _encoded(kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _item(data: bytes, **more: Any) -> Item:
    return Item("name", lambda: data, **more)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_whole_image_passes_with_its_own_bytes(kind: str) -> None:
    data = _encoded(kind)
    result = check_image(_item(data, size=(40, 30)), None)
    assert isinstance(result, Decoded)
    assert result.encoded == data
    assert (result.width, result.height) == (40, 30)
    assert sum(result.histogram) == 3 * 40 * 30


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_image_is_corrupt(kind: str, share: float) -> None:
    data = _encoded(kind)
    result = check_image(_item(data[: int(share * len(data))]), None)
    assert isinstance(result, str)
    assert "corrupt image" in result


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>"])
def test_what_is_no_image_is_named(data: bytes) -> None:
    assert check_image(_item(data), None) == "not an image of a known format"


def test_sizes_have_to_agree_with_the_annotations() -> None:
    result = check_image(_item(_encoded("PNG"), size=(30, 40)), None)
    assert result == "40x30 pixels, but the annotations say 30x40"


def test_sixteen_bits_are_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(file, "PNG")
    result = check_image(_item(file.getvalue()), None)
    assert isinstance(result, str)
    assert "8 bits" in result


def test_an_unreadable_file_is_named() -> None:
    def read() -> bytes:
        raise PermissionError(13, "Permission denied")

    assert check_image(Item("name", read), None) == "unreadable file (Permission denied)"


def test_what_the_reader_found_comes_first() -> None:
    assert check_image(_item(b"", problem="no label"), None) == "no label"


@pytest.mark.parametrize(("kind", "stored"), [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "JPEG")])
def test_a_large_image_is_shrunk(kind: str, stored: str) -> None:
    result = check_image(_item(_encoded(kind)), 15)
    assert isinstance(result, Decoded)
    assert (result.width, result.height) == (20, 15)
    image = Image.open(io.BytesIO(result.encoded))
    assert (image.format, image.size) == (stored, (20, 15))


def test_a_small_image_keeps_its_bytes() -> None:
    data = _encoded("JPEG")
    result = check_image(_item(data), 30)
    assert isinstance(result, Decoded)
    assert result.encoded == data


@pytest.mark.parametrize("label", [-1, 10, None])
def test_labels_have_to_be_in_range(label: int | None) -> None:
    assert check_label(label, 10) == f"label {label} is outside 0 to 9"
    assert check_label(0, 10) is None
    assert check_label(9, 10) is None


@pytest.mark.parametrize("caption", ["", "  ", None, 3, "\u200b", "\u200b \u200d", "a\ud83d"])
def test_captions_have_to_be_text(caption: object) -> None:
    assert "unreadable caption" in str(check_caption(caption))
    assert check_caption("a red star") is None


def _tally(bad: int, seen: int) -> Tally:
    tally = Tally()
    tally.seen("train", 1000)
    tally.seen("val", seen)
    for i in range(bad):
        tally.bad("val", f"{i}.jpg", "corrupt image")
    return tally


def test_nothing_bad_passes() -> None:
    tally = _tally(0, 100)
    tally.enforce("d.yaml", 0.0)
    assert tally.share() == 0


def test_one_bad_item_fails_by_default() -> None:
    with pytest.raises(UserError, match=r"d\.yaml: 1 bad item, nothing written: val 0\.jpg: corr"):
        _tally(1, 100).enforce("d.yaml", 0.0)


def test_the_first_few_are_shown_with_the_count() -> None:
    with pytest.raises(UserError, match=r"5 bad items.*val 2\.jpg.*and 2 more") as error:
        _tally(5, 100).enforce("d.yaml", 0.0)
    assert "\n" not in str(error.value)
    assert "3.jpg" not in str(error.value)


def test_the_share_is_of_the_worse_split() -> None:
    tally = _tally(3, 100)
    assert tally.share() == pytest.approx(0.03)
    tally.enforce("d.yaml", 0.03)
    with pytest.raises(UserError, match=r"3\.00% of a split.*max_bad_share 2\.00%"):
        tally.enforce("d.yaml", 0.02)
