"""Images of any number of channels of 8 or 16 bits: decoded to arrays, stored, read again.

Sets of three channels of 8 bits are not read here, but by ``steps.data.decoding``. Nothing is
converted: an image has the channels and the bits that the params of its set say, or is refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from steps.command import UserError
from steps.data.decoding import UnfitImageError, check_pixels, opened, orientation

INSTALL = "uv sync --group bands"
"""The line that installs the readers of TIFF files."""

Array = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_PACKED = b"\x28\xb5\x2f\xfd"
"""First bytes of a Zstandard frame, with which no image file begins."""
_NUMPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PILLOW_CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
"""Channels of Pillow's modes that hold the values of their files."""
_CHANNEL_AXES, _UNNAMED_AXES = "SC", "QI"
"""Letters of tifffile for axes that are channels, and for those of which a file says nothing."""
_MIN_IS_WHITE, _PALETTE = 0, 3
_ORIENTATION = 274


@dataclass(frozen=True)
class Form:
    """The form of every image of a set."""

    channels: int
    bits: int
    """8 or 16, of each channel."""


@dataclass(frozen=True)
class Bands:
    """Pixels of an image as its photographer saw it."""

    array: Array
    """(C, H, W), uint8 or uint16."""
    turned: bool
    """An orientation of the file was applied."""
    first_of_several: bool
    """The file has further images, which are left out."""


# --- From a file


def decode_bands(encoded: bytes, form: Form, max_pixels: int) -> Bands:
    """The first image of a TIFF, NumPy, PNG or other file, with all its channels.

    Args:
        encoded: the file.
        form: what the params of the set say.
        max_pixels: width times height above which nothing is decoded.

    Raises:
        UnfitImageError: other channels or bits than ``form``, axes of which it is not clear which
            holds the channels, too many pixels, or a format that is not taken.
        UserError: the package that reads the file is missing.
        Exception: a damaged file makes decoders raise anything.
    """
    if encoded.startswith(_NUMPY):
        return Bands(_of_numpy(encoded, form, max_pixels), False, False)
    if encoded.startswith(_TIFF):
        return _of_tiff(encoded, form, max_pixels)
    return _of_picture(encoded, form, max_pixels)


def _numpy_header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order (True: of Fortran) and type of a NumPy file, which is read up to its values."""
    version = np.lib.format.read_magic(file)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise UnfitImageError(f"a NumPy file of version {version}; 1.0 and 2.0 are taken")
    return headers[version](file)


def _of_numpy(encoded: bytes, form: Form, max_pixels: int) -> Array:
    file = io.BytesIO(encoded)
    shape, fortran, dtype = _numpy_header(file)
    axis = _channel_axis(shape, "", form)
    _check_size(shape, axis, max_pixels)
    _check_values(dtype, form)
    # Not by np.load: it would make room for as much as a damaged header claims.
    values = np.frombuffer(encoded, dtype, int(np.prod(shape)), file.tell())
    return _channels_first(values.reshape(shape, order="F" if fortran else "C"), axis)


def _of_tiff(encoded: bytes, form: Form, max_pixels: int) -> Bands:
    tifffile = _tifffile()
    with tifffile.TiffFile(io.BytesIO(encoded)) as file:
        series = file.series[0]
        page = series.keyframe
        if page.photometric == _PALETTE:
            raise UnfitImageError("a palette; save it without one")
        axis = _channel_axis(series.shape, series.axes, form)
        _check_size(series.shape, axis, max_pixels)
        _check_values(series.dtype, form)
        try:
            array = series.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise UserError(
                "a TIFF file",
                f"compressed by {page.compression.name}, which needs the package imagecodecs",
                remedy=INSTALL,
            ) from error
        array = _channels_first(array, axis)
        if page.photometric == _MIN_IS_WHITE:
            array = np.iinfo(array.dtype).max - array
        tag = page.tags.get(_ORIENTATION)
        several = len(file.series) > 1
    return _upright(array, 1 if tag is None else int(tag.value), several)


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise UserError(
            "a TIFF file", "tifffile, which reads it, is not installed", remedy=INSTALL
        ) from error
    return tifffile


def _of_picture(encoded: bytes, form: Form, max_pixels: int) -> Bands:
    """An image of a format that Pillow knows."""
    with opened(encoded) as image:
        check_pixels(image.width, image.height, max_pixels)
        several = bool(getattr(image, "is_animated", False))
        tiles = image.tile  # type: ignore[attr-defined]
        turn = orientation(image)
        if image.format == "PNG" and tiles and "16" in str(tiles[0][3]):
            return _upright(_of_wide_png(encoded, form), turn, several)
        image.load()
        if image.mode not in _PILLOW_CHANNELS:
            raise UnfitImageError(
                f"an image of mode {image.mode}; gray or RGB with or without alpha is taken, and "
                "more as TIFF or NumPy"
            )
        array = np.asarray(image)
    _check_values(array.dtype, form)
    axis = _channel_axis(array.shape, "YXS"[: array.ndim], form)
    return _upright(_channels_first(array, axis), turn, several)


def _of_wide_png(encoded: bytes, form: Form) -> Array:
    """A PNG of 16 bits, of which Pillow would only keep the high byte."""
    import torch
    from torchvision.io import ImageReadMode, decode_image

    file = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
    array: Array = decode_image(file, ImageReadMode.UNCHANGED).numpy()
    _check_values(array.dtype, form)
    return _channels_first(array, _channel_axis(array.shape, "SYX", form))


def form_of(encoded: bytes) -> Form | None:
    """The form of a file that is no picture of 8 bits; None: it is one, or cannot be read.

    Of an array whose axes have no names, the channels are the shorter of the first and last axis.
    """
    if encoded.startswith(_NUMPY):
        (shape, _, dtype), axes = _numpy_header(io.BytesIO(encoded)), ""
    elif encoded.startswith(_TIFF):
        with _tifffile().TiffFile(io.BytesIO(encoded)) as file:
            series = file.series[0]
            shape, axes, dtype = series.shape, series.axes, series.dtype
    else:
        with opened(encoded) as image:
            tiles = image.tile  # type: ignore[attr-defined]
            if image.format != "PNG" or not tiles or "16" not in str(tiles[0][3]):
                return None
            return Form(len(image.getbands()), 16)
    if dtype.kind != "u" or dtype.itemsize > 2 or len(shape) not in (2, 3):
        return None
    if len(shape) == 2:
        return Form(1, 8 * dtype.itemsize)
    named = [size for size, letter in zip(shape, axes, strict=False) if letter in _CHANNEL_AXES]
    channels = named[0] if len(named) == 1 else min(shape[0], shape[-1])
    return Form(int(channels), 8 * dtype.itemsize)


# --- The form of an array


def _channel_axis(shape: Sequence[int], axes: str, form: Form) -> int | None:
    """The axis of the channels; None: an image of one channel without such an axis.

    Args:
        shape: of the array.
        axes: a letter for each axis, as tifffile has them; empty: not known.
        form: what the params of the set say.
    """
    said = f"channels is {form.channels} in the dataset's params"
    size = "x".join(map(str, shape))
    if len(shape) == 2:
        if form.channels != 1:
            raise UnfitImageError(f"1 channel; {said}")
        return None
    if len(shape) != 3:
        raise UnfitImageError(
            f"an array of {size}; height, width and channels, or channels, height and width, are "
            "needed"
        )
    named = [index for index, letter in enumerate(axes) if letter in _CHANNEL_AXES]
    if len(named) == 1:
        if shape[named[0]] != form.channels:
            raise UnfitImageError(f"{shape[named[0]]} channels; {said}")
        return named[0]
    others = {*axes} - {*_UNNAMED_AXES, "Y", "X"}
    if others:
        raise UnfitImageError(
            f"a stack of {size} along {', '.join(sorted(others))}, which are not channels; save "
            "one image a file"
        )
    found = [axis for axis in (0, 2) if shape[axis] == form.channels]
    if len(found) == 2:
        raise UnfitImageError(
            f"an array of {size}, whose first and last axis may both be its channels; {said}; "
            "crop it, so that height or width is another number"
        )
    if not found:
        raise UnfitImageError(
            f"an array of {size}, of which neither the first nor the last axis has "
            f"{form.channels}; {said}"
        )
    return found[0]


def _check_size(shape: Sequence[int], axis: int | None, max_pixels: int) -> None:
    height, width = (side for index, side in enumerate(shape) if index != axis)
    check_pixels(width, height, max_pixels)
    # A damaged header of a NumPy file may hold any whole numbers.
    if height < 1 or width < 1:
        raise UnfitImageError(f"{width}x{height} pixels; at least one is needed")


def _check_values(dtype: np.dtype[Any], form: Form) -> None:
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise UnfitImageError(
            f"values of {dtype.name}; uint8 or uint16 is needed, with bits in the dataset's params"
        )
    if (bits := 8 * dtype.itemsize) != form.bits:
        raise UnfitImageError(
            f"{bits} bits a channel; bits is {form.bits} in the dataset's params, and a set has "
            "one depth"
        )


def _channels_first(array: npt.NDArray[Any], axis: int | None) -> Array:
    """(C, H, W), in the machine's order of bytes."""
    whole = array[None] if axis is None else np.moveaxis(array, axis, 0)
    return np.ascontiguousarray(whole, whole.dtype.newbyteorder("="))


_TURNS: dict[int, Callable[[Array], Array]] = {
    2: lambda array: array[:, :, ::-1],
    3: lambda array: array[:, ::-1, ::-1],
    4: lambda array: array[:, ::-1],
    5: lambda array: array.swapaxes(1, 2),
    6: lambda array: array.swapaxes(1, 2)[:, :, ::-1],
    7: lambda array: array[:, ::-1, ::-1].swapaxes(1, 2),
    8: lambda array: array.swapaxes(1, 2)[:, ::-1],
}
"""Turn that makes an image upright, by the value of its orientation."""


def _upright(array: Array, turn: int, several: bool) -> Bands:
    if turn not in _TURNS:
        return Bands(array, False, several)
    upright = np.ascontiguousarray(_TURNS[turn](array))
    return Bands(cast(Array, upright), True, several)


# --- Sizes


def resized(array: Array, resize: Callable[[Image.Image], Image.Image]) -> Array:
    """Each channel changed as an image of Pillow, to another size of the same values.

    Args:
        array: (C, H, W), uint8 or uint16.
        resize: gets and gives an image of mode L (8 bits), or of mode F in the same units.
    """
    if array.dtype == np.uint8:
        return np.stack([np.asarray(resize(Image.fromarray(band))) for band in array])
    bands = [np.asarray(resize(Image.fromarray(band.astype(np.float32)))) for band in array]
    return np.stack(bands).round().clip(0, np.iinfo(np.uint16).max).astype(np.uint16)


# --- In a prepared set


def pack(array: Array) -> bytes:
    """The stored form of an image, without loss: NumPy's file format, compressed."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    packed: bytes = pa.compress(file.getvalue(), codec="zstd", asbytes=True)
    return packed


def is_packed(encoded: bytes) -> bool:
    """True for the result of ``pack``."""
    return encoded.startswith(_PACKED)


def unpack(encoded: bytes) -> Array:
    """The image (C, H, W) that was packed."""
    with pa.CompressedInputStream(pa.BufferReader(encoded), "zstd") as stream:
        whole = stream.read()
    array: Array = np.lib.format.read_array(io.BytesIO(whole), allow_pickle=False)
    return array


# --- Statistics


@dataclass(frozen=True)
class Sums:
    """Exact sums over the pixels of images, for mean and deviation per channel."""

    pixels: int
    totals: tuple[int, ...]
    """Per channel, as ``squares``."""
    squares: tuple[int, ...]

    @classmethod
    def of(cls, array: Array) -> Sums:
        """The sums of an image (C, H, W)."""
        totals, squares = [], []
        for band in array:
            values = band.reshape(-1).astype(np.uint64)
            totals.append(int(values.sum()))
            squares.append(int(np.dot(values, values)))
        return cls(array[0].size, tuple(totals), tuple(squares))

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.pixels + other.pixels,
            tuple(a + b for a, b in zip(self.totals, other.totals, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    def mean_and_std(self, bits: int) -> tuple[list[float], list[float]]:
        """Per channel, of values as shares of the largest that ``bits`` can hold."""
        top = 2**bits - 1
        mean = [total / (self.pixels * top) for total in self.totals]
        # In whole numbers, so that a channel of one value has a deviation of exactly 0.
        std = [
            (square * self.pixels - total**2) ** 0.5 / (self.pixels * top)
            for total, square in zip(self.totals, self.squares, strict=True)
        ]
        return [round(value, 9) for value in mean], [round(value, 9) for value in std]
