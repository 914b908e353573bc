"""Images are what the photographer saw, or refused: nothing of them is lost without a word."""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from steps.command import UserError
from steps.data.checks import Decoded, check_image
from steps.data.sources.source import Item
from steps.data.views import centre_crop, make_views
from steps.params.detection import RangeCrop
from steps.params.views import View
from tests.faults.builders_data import Prepared, encoded, folders, noise, png, put, tiff
from tests.processes import REPOSITORY

BLACK = np.zeros((10, 12, 3), np.uint8)


def _check(data: bytes, **more: Any) -> Decoded | str:
    return check_image(Item("x", lambda: data), **more)


def _pixels(data: bytes, **more: Any) -> np.ndarray:
    """What a step reads of a stored image."""
    decoded = _check(data, **more)
    assert isinstance(decoded, Decoded), decoded
    pixels = np.asarray(Image.open(io.BytesIO(decoded.encoded)).convert("RGB"))
    assert pixels.shape[:2] == (decoded.height, decoded.width)
    return pixels


# Orientation

UPRIGHT = np.zeros((16, 32, 3), np.uint8)
UPRIGHT[:8, :16], UPRIGHT[:8, 16:] = (250, 20, 20), (20, 250, 20)
UPRIGHT[8:, :16], UPRIGHT[8:, 16:] = (20, 20, 250), (200, 200, 200)
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}
"""Pixels of a file by its orientation, so that the picture is upright (Exif 2.32, 4.6.4)."""
KINDS = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
}


def _photograph(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.ascontiguousarray(STORED[orientation])
    return encoded(pixels, kind, exif=exif, **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_upright(kind: str, orientation: int) -> None:
    data = _photograph(orientation, kind)
    assert np.abs(_pixels(data).astype(int) - UPRIGHT).max() <= (12 if kind == "JPEG" else 0)
    small = _pixels(data, resize_short_side=8)
    assert small.shape == (8, 16, 3)
    assert np.abs(small[2, 2].astype(int) - UPRIGHT[0, 0]).max() < 25
    assert np.abs(small[-3, 2].astype(int) - UPRIGHT[-1, 0]).max() < 25


@pytest.mark.parametrize("kind", KINDS)
def test_an_upright_image_keeps_its_bytes(kind: str) -> None:
    for orientation in (0, 1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(UPRIGHT, kind, exif=exif, **KINDS[kind])
        decoded = _check(data)
        assert isinstance(decoded, Decoded)
        assert decoded.encoded == data
        assert decoded.notes == ()


def test_damaged_exif_turns_nothing() -> None:
    data = encoded(UPRIGHT, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    decoded = _check(data)
    assert isinstance(decoded, Decoded)
    assert decoded.encoded == data


def _coco(root: Path, stated: tuple[int, int], orientation: int) -> dict[str, Any]:
    split: dict[str, Any] = {}
    for name in ("train", "val"):
        put(root / name / "1.jpg", _photograph(orientation, "JPEG"))
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 16, 8], "area": 128}
        box |= {"iscrowd": 0, "segmentation": [[0, 0, 16, 0, 16, 8, 0, 8]]}
        image = {"id": 1, "file_name": "1.jpg", "width": stated[0], "height": stated[1]}
        content = {"images": [image], "annotations": [box]}
        content["categories"] = [{"id": 1, "name": "red"}]
        put(root / f"{name}.json", json.dumps(content).encode())
        split[name] = {"images": name, "annotations": f"{name}.json"}
    return {"format": "coco", **split}


@pytest.mark.parametrize("orientation", STORED)
def test_boxes_are_of_the_upright_picture(root: Path, orientation: int, tmp_path: Path) -> None:
    made = Prepared(tmp_path, _coco(root, (32, 16), orientation))
    assert made.train.sizes.tolist() == [[32, 16]]
    assert np.abs(np.asarray(made.train.image(0))[:7, :15].astype(int) - (250, 20, 20)).max() < 25
    assert made.facts["splits"]["train"].get("turned", 0) == (orientation != 1)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_stated_size_of_the_unturned_picture_is_named(
    root: Path, orientation: int, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"32x16 pixels upright.*say 16x32, its size unturned"):
        Prepared(tmp_path, _coco(root, (16, 32), orientation))


# More than 8 bits a channel

TWELVE_BITS = encoded(noise(), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c")
DEEP = np.arange(10 * 12 * 4, dtype=np.uint16).reshape(10, 12, 4) * 130


def _opencv(suffix: str, pixels: np.ndarray) -> bytes:
    whole, data = cv2.imencode(suffix, pixels)
    assert whole
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png(DEEP[..., :1], 0), "16 bits a channel"),
        (png(DEEP[..., :3], 2), "16 bits a channel"),
        (png(DEEP[..., :2], 4), "16 bits a channel"),
        (png(DEEP, 6), "16 bits a channel"),
        (_opencv(".png", DEEP[..., :3]), "16 bits a channel"),
        (_opencv(".tif", DEEP[..., :3]), "16 bits a channel"),
        (tiff(DEEP[..., :3], 2), "16 bits a channel"),
        (tiff(DEEP[..., :1], 1), "16 bits a channel"),
        (tiff(DEEP, 2, [2]), "16 bits a channel"),
        (tiff(DEEP[..., :1].astype(np.float32), 1, sample_format=3), "32 bits a channel"),
        (tiff(DEEP[..., :3].astype(np.float32), 2, sample_format=3), "not of 8 bits"),
        (tiff(noise(channels=2), 1), "not gray or RGB with or without alpha"),
        (tiff(noise(channels=9), 2, [0] * 6), "not gray or RGB with or without alpha"),
        (tiff(noise(channels=1), 1, sample_format=2), "signed or floating"),
        (TWELVE_BITS, "a JPEG that cannot be read"),
        (b"P6 4 4 65535\n" + bytes(96), "an image of format PPM; JPEG, PNG, WEBP, BMP, GIF"),
        (encoded(noise(), "JPEG2000"), "an image of format JPEG2000"),
        (encoded(noise(), "AVIF"), "an image of format AVIF"),
    ],
)
def test_values_are_never_cut(data: bytes, said: str) -> None:
    result = _check(data)
    assert isinstance(result, str)
    assert said in result


def test_few_bits_are_taken() -> None:
    gray = Image.fromarray(noise(channels=1).squeeze())
    for kind, options in (("PNG", {"bits": 4}), ("PNG", {}), ("TIFF", {})):
        for image in (gray.convert("1"), gray.convert("P"), gray):
            chosen = options if image.mode == "P" else {}
            pixels = _pixels(encoded(image, kind, **chosen))
            assert (pixels[..., 0] == pixels[..., 2]).all()


# Alpha


def _square(value: int, channels: str) -> Image.Image:
    """An object that is seen in the alpha channel alone."""
    alpha = np.zeros((10, 12), np.uint8)
    alpha[3:7, 4:8] = 255
    image = Image.new(
        channels[:-1], (12, 10), (value,) * (len(channels) - 1) if len(channels) > 2 else value
    )
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize(
    ("channels", "kind"),
    [("RGBA", "PNG"), ("RGBA", "TIFF"), ("RGBA", "WEBP"), ("LA", "PNG"), ("LA", "TIFF")],
)
def test_an_object_in_the_alpha_alone_is_seen(channels: str, kind: str) -> None:
    options = {"exact": True, "lossless": True} if kind == "WEBP" else {}
    data = encoded(_square(0, channels), kind, **options)
    pixels = _pixels(data)
    assert (pixels[3:7, 4:8] == 0).all()
    assert (pixels[:2] == 255).all()
    gray = _pixels(data, ground=(9, 99, 199))
    assert (gray[0, 0] == (9, 99, 199)).all()
    decoded = _check(data)
    assert isinstance(decoded, Decoded)
    assert decoded.notes == ("composited",)


@pytest.mark.parametrize(
    "image",
    [_square(255, "RGBA"), _square(255, "LA"), Image.new("RGBA", (5, 5), (10, 20, 30, 0))],
    ids=["white", "gray white", "wholly transparent"],
)
def test_an_image_of_which_nothing_is_seen_is_named(image: Image.Image) -> None:
    result = _check(encoded(image))
    assert isinstance(result, str)
    assert "nothing is seen of it on the ground [255, 255, 255]" in result
    assert "set another ground" in result


def test_half_transparent_pixels_are_mixed() -> None:
    for data in (
        encoded(Image.new("RGBA", (4, 4), (0, 100, 200, 128))),
        tiff(np.full((4, 4, 4), (0, 50, 100, 128), np.uint8), 2, [1]),  # premultiplied
    ):
        pixel = _pixels(data, ground=(100, 100, 100))[0, 0].astype(int)
        assert np.abs(pixel - (50, 100, 150)).max() <= 1


def test_colours_that_a_palette_or_key_makes_transparent_are_put_on_the_ground() -> None:
    palette = Image.fromarray(noise(3)).quantize(4)
    for transparency in (0, bytes([0, 255, 255, 255])):
        data = encoded(palette, transparency=transparency)
        index = np.asarray(palette)
        pixels = _pixels(data, ground=(1, 2, 3))
        assert (pixels[index == 0] == (1, 2, 3)).all()
        assert (pixels[index != 0] == np.asarray(palette.convert("RGB"))[index != 0]).all()
    keyed = Image.fromarray(
        np.where(np.eye(10, dtype=bool)[..., None], 7, 90).astype(np.uint8).repeat(3, 2)
    )
    pixels = _pixels(encoded(keyed, transparency=(7, 7, 7)))
    assert (pixels[np.eye(10, dtype=bool)] == 255).all()
    animation = encoded(palette, "GIF", transparency=0)
    assert (_pixels(animation)[np.asarray(palette) == 0] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_opaque_alpha_changes_nothing(kind: str) -> None:
    image = Image.fromarray(noise())
    image.putalpha(255)
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    decoded = _check(data)
    assert isinstance(decoded, Decoded)
    assert decoded.encoded == data
    assert (_pixels(data) == noise()).all()


def test_a_stored_image_has_no_alpha_and_no_orientation_left() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"resize_short_side": 4}):
        decoded = _check(encoded(_square(0, "RGBA"), exif=exif), **options)
        assert isinstance(decoded, Decoded)
        with Image.open(io.BytesIO(decoded.encoded)) as image:
            assert image.mode == "RGB"
            assert not image.has_transparency_data
            assert image.getexif().get(0x0112, 1) == 1
            assert (image.width, image.height) == (decoded.width, decoded.height)
            assert image.width < image.height


# Bands that are no colour


@pytest.mark.parametrize(
    "data",
    [
        _opencv(".tif", noise(channels=4)),
        tiff(noise(channels=4), 2),
        tiff(noise(channels=4), 2, [0]),
        tiff(noise(channels=5), 2, [0, 0]),
        tiff(noise(channels=5), 2, [2, 0]),
        tiff(noise(channels=2), 1, [0]),
        tiff(noise(channels=5), 5, [0]),
        encoded(Image.fromarray(noise(channels=4), "RGBX"), "TIFF"),
    ],
)
def test_a_further_band_is_never_dropped(data: bytes) -> None:
    result = _check(data)
    assert isinstance(result, str)
    assert "more than its" in result
    assert "alpha" in result


def test_alpha_that_is_marked_so_is_taken() -> None:
    pixels = noise(channels=4)
    pixels[..., 3] = 255
    for extra in ([1], [2]):
        assert (_pixels(tiff(pixels, 2, extra)) == pixels[..., :3]).all()
    assert (_pixels(tiff(noise(channels=3), 2)) == noise()).all()
    gray = noise(channels=2)
    gray[..., 1] = 255
    for extra in ([1], [2]):
        assert (_pixels(tiff(gray, 1, extra)) == gray[..., :1]).all()
    cmyk = Image.fromarray(noise()).convert("CMYK")
    assert _pixels(encoded(cmyk, "TIFF")).shape == (10, 12, 3)
    assert _pixels(encoded(cmyk, "JPEG")).shape == (10, 12, 3)


# Several frames


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_of_several_frames_is_said(
    kind: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.fromarray(noise(seed, 64, 48)) for seed in (90, 91, 92)]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    suffix = {"MPO": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
    params = folders(root)
    put(root / "train/a" / f"many.{suffix}", encoded(frames[0], kind, **options))
    with caplog.at_level(logging.WARNING):
        made = Prepared(tmp_path, params)
    assert made.facts["splits"]["train"]["first_of_several"] == 1
    assert "first_of_several" not in made.facts["splits"]["val"]
    assert "train: 1 images are the first of several frames" in caplog.text
    found = np.asarray(made.train.image(made.train.ids.index(f"a/many.{suffix}"))).astype(int)
    # GIF has 256 colours, and JPEG and WebP lose some: the first frame is by far the nearest.
    far = [np.abs(found - np.asarray(frame)).mean() for frame in frames]
    assert far[0] < far[1] / 1.5


# Extreme sizes


@pytest.mark.parametrize("side", [20_000, 100_000])
def test_a_strip_takes_little_memory(side: int) -> None:
    code = f"""
        import numpy as np
        from PIL import Image
        from steps.data.views import centre_crop, make_views
        from steps.params.views import View
        views = [View(area=[0.2, 1.0]), View(area=[0.2, 1.0], engine="tensor")]
        for size in ((1, {side}), ({side}, 1)):
            image = Image.new("RGB", size, (9, 99, 199))
            crop = centre_crop(image, 224, 0.875)
            assert np.asarray(crop).reshape(-1, 3).tolist() == [[9, 99, 199]] * 224 * 224
            make_views(image, views, 224, np.random.default_rng(0))
    """
    done = _in_little_memory(code)
    assert done.returncode == 0, done.stderr[-2000:]


def _in_little_memory(code: str, gib: int = 1) -> subprocess.CompletedProcess[str]:
    """Run code in a process that can write to so little memory."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (gib * 2**30,) * 2),
        capture_output=True,
        text=True,
        check=False,
    )


def _enlarged_first(image: Image.Image, size: int, fraction: float) -> Image.Image:
    """The crop as torchvision's Resize and CenterCrop make it: the whole image is resized."""
    short = round(size / fraction)
    scale = short / min(image.size)
    width, height = (max(round(side * scale), short) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    return whole.crop((left, top, left + size, top + size))


@pytest.mark.parametrize(
    ("size", "most"),
    [
        *(((50, 37), 0), ((64, 64), 0), ((33, 32), 0), ((3, 2), 0), ((1, 1), 0), ((100, 14), 0)),
        *(((90, 9), 1), ((7, 300), 1), ((1, 400), 1), ((400, 6), 1), ((1000, 100), 1)),
    ],
)
@pytest.mark.parametrize(("crop", "fraction"), [(224, 0.875), (64, 1.0), (48, 0.9)])
def test_a_crop_is_what_it_was(
    size: tuple[int, int], most: int, crop: int, fraction: float
) -> None:
    image = Image.fromarray(noise(1, 9, 7)).resize(size, Image.Resampling.BICUBIC)
    ours = np.asarray(centre_crop(image, crop, fraction)).astype(int)
    assert np.abs(ours - np.asarray(_enlarged_first(image, crop, fraction))).max() <= most


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 3)])
@pytest.mark.parametrize("engine", ["pillow", "tensor"])
def test_views_of_extreme_images(size: tuple[int, int], engine: str) -> None:
    image = Image.new("RGB", size, (1, 2, 3))
    view = View(area=[0.2, 1.0], engine=engine, aspect=[3.0, 4.0], count=4)
    made = make_views(image, [view], 32, np.random.default_rng(0))
    assert [one.shape for one in made] == [(3, 32, 32)] * 4


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_a_strip_of_scenes_stays_whole(size: tuple[int, int]) -> None:
    """At a short side of 600 it would be 12 million pixels long."""
    from steps.detection.dataset import Targets, _cut  # mmdet takes seconds to import

    image = np.zeros((*size, 3), np.uint8)
    crop = RangeCrop(short_sides=[600], sides=[384, 600])
    rng = np.random.default_rng(0)
    cut, _ = _cut(crop, image, Targets.from_annotations([], *size), rng)
    assert cut.shape == (*size, 3)


def test_a_strip_that_jpeg_cannot_hold_is_shrunk_to_a_png() -> None:
    data = encoded(Image.new("RGB", (100_000, 10), (9, 8, 7)), "TIFF")
    decoded = _check(data, resize_short_side=8)
    assert isinstance(decoded, Decoded)
    assert (decoded.width, decoded.height) == (80_000, 8)
    assert Image.open(io.BytesIO(decoded.encoded)).size == (80_000, 8)


def test_a_large_image_is_allowed_by_a_param(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    put(root / "train/a/large.png", encoded(Image.new("L", (15_000, 12_000)).convert("1")))
    with pytest.raises(UserError, match=r"large\.png: 15000x12000 pixels are more than max_pixels"):
        Prepared(tmp_path, {**params, "max_pixels": 1_000_000})
    with pytest.raises(UserError, match=r"more than max_pixels, 178956970.*raise max_pixels"):
        Prepared(tmp_path, params)


@pytest.mark.slow
def test_a_large_image_is_read(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    put(root / "train/a/large.png", encoded(Image.new("L", (15_000, 12_000)).convert("1")))
    made = Prepared(tmp_path, {**params, "max_pixels": 200_000_000, "resize_short_side": 64})
    assert [80, 64] in made.train.sizes.tolist()
    made = Prepared(tmp_path, {**params, "max_pixels": 200_000_000})
    row = made.train.ids.index("a/large.png")
    read = f"""
        from pathlib import Path
        from steps.data.shards import Images
        print(Images(Path({str(made.folder)!r}), "train").image({row}).size)
    """
    assert _in_little_memory(read, gib=2).stdout == "(15000, 12000)\n"


# What is no plain file


def test_what_is_no_file_is_named_and_never_opened(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    os.mkfifo(root / "train/a/p.png")
    os.mkfifo(root / "train/q.png")
    with socket.socket(socket.AF_UNIX) as listener:
        place = Path(os.path.relpath(root / "train/a/s.png"))
        listener.bind(str(place))
        (root / "train/b/d.png").symlink_to("/dev/zero")
        (root / "train/b/gone.png").symlink_to("nowhere")
        (root / "train/b/itself.png").symlink_to("itself.png")
        with pytest.raises(UserError) as error:
            Prepared(tmp_path, params)
        assert "train q.png: a FIFO" in str(error.value)
        made = Prepared(tmp_path, {**params, "on_bad": "skip", "max_bad_share": 0.9})
    problems = {p["item"]: p["problem"] for p in made.facts["problems"]}
    assert problems["a/p.png"].startswith("a FIFO")
    assert problems["a/s.png"].startswith("a socket")
    assert problems["b/d.png"].startswith("a device")
    assert problems["b/gone.png"].startswith("a broken link")
    assert problems["b/itself.png"].startswith("unreadable (Too many levels")
    assert made.train.ids == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]


@pytest.mark.parametrize("name", ["x.jfif", "x.JPE", "x.ppm", "x.avif", "x", "x.png.txt"])
def test_an_unusual_name_says_what_is_allowed(name: str, root: Path, tmp_path: Path) -> None:
    params = folders(root)
    put(root / "train/a" / name, encoded(noise(77)))
    with pytest.raises(UserError, match=r"not an image by its name, which ends in \.jpg, \.jpeg"):
        Prepared(tmp_path, params)


def test_a_file_larger_than_memory_is_named(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)  # a hole
    done = _in_little_memory(f"""
        from pathlib import Path
        from steps.data.checks import check_image
        from steps.data.sources.source import Item
        print(check_image(Item("x", Path({str(file.name)!r}).read_bytes)))
    """)
    assert "an image too large for this machine" in done.stdout, done.stderr[-2000:]
