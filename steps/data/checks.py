"""Validation: every image decoded, every label and caption looked at; what is bad is named."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from steps.command import UserError
from steps.data.bands import Array, Bands, Form, Sums, decode_bands, pack, resized
from steps.data.decoding import Picture, UnfitImageError, decode, lossless
from steps.data.names import escaped, is_text, written
from steps.data.sources.source import Item, Problem
from steps.data.values import shown
from steps.params.sets import GROUND, MAX_PIXELS, Tiles

Note = Literal["turned", "composited", "first_of_several"]
"""Change that makes an image other than its file's plain content, as :class:`Picture` has it."""
NOTES: tuple[Note, ...] = get_args(Note)

_SHOWN = 3
_HASHED_PIXELS = 2**20
"""At a time: a large image is not copied whole once more."""
_JPEG_SIDE = 65_500
"""The longest side that libjpeg writes, in pixels."""


class Tally:
    """Counts items and keeps the problems, in the order in which they are found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._seen: dict[str, int] = {}

    def seen(self, split: str, items: int = 1) -> None:
        """Count items (images, annotations, captions) that were looked at."""
        self._seen[split] = self._seen.get(split, 0) + items

    def bad(self, split: str, item: str, problem: str) -> None:
        """Name one item as bad."""
        self.problems.append(Problem(split, escaped(item), escaped(problem)))

    def share(self) -> float:
        """Problems over items seen, of the split where that is larger."""
        bad = dict.fromkeys(self._seen, 0)
        for problem in self.problems:
            bad[problem.split] = bad.get(problem.split, 0) + 1
        return max((bad[split] / max(1, self._seen.get(split, 0)) for split in bad), default=0.0)

    def enforce(self, where: str, max_share: float) -> None:
        """Stop where more is bad than is allowed.

        Args:
            where: the dataset's params file.
            max_share: 0: nothing may be bad.

        Raises:
            UserError: with the first problems and how many there are.
        """
        share = self.share()
        if not self.problems or 0 < share <= max_share:
            return
        shown = "; ".join(f"{p.split} {p.item}: {p.problem}" for p in self.problems[:_SHOWN])
        more = len(self.problems) - _SHOWN
        shown += f"; and {more} more" if more > 0 else ""
        count = f"{len(self.problems)} bad item{'s' if len(self.problems) > 1 else ''}"
        if max_share > 0:
            raise UserError(
                where,
                f"{count}, {share:.2%} of a split: {shown}",
                allowed=f"max_bad_share {max_share:.2%}",
                remedy="mend the data, or raise max_bad_share knowing what is lost",
            )
        raise UserError(
            where,
            f"{count}, nothing written: {shown}",
            remedy="mend or remove them, or set on_bad: skip with a max_bad_share",
        )


@dataclass(frozen=True)
class Decoded:
    """A whole image: its bytes as they will be stored, and what is known of its pixels."""

    encoded: bytes
    width: int
    height: int
    histogram: list[int]
    """Counts of the 256 values of red, then green, then blue: (768,). Empty where there are
    ``sums``."""
    digest: int
    """64 bits of a hash of size and pixels: images of one digest are the same image."""
    notes: tuple[Note, ...] = ()
    sums: Sums | None = None
    """Sums over the pixels of an image that is not RGB of 8 bits."""
    place: tuple[int, int] | None = None
    """Left and top edge of a tile in its image, in pixels; None: an image of its own."""
    mask: bytes | None = None
    """Its semantic mask, as it will be stored."""
    mask_pixels: npt.NDArray[np.int64] | None = None
    """Pixels of each class (C,) in the mask."""


def check_image(
    item: Item,
    resize_short_side: int | None = None,
    ground: Sequence[int] = GROUND,
    max_pixels: int = MAX_PIXELS,
    form: Form | None = None,
) -> Decoded | str:
    """Decode an image to its last row.

    The file's bytes are kept where decoding them plainly gives the right pixels. What had to be
    turned, put on a ground or shrunk is encoded again.

    Args:
        item: from a reader.
        resize_short_side: shrink a larger image to this many pixels; None: keep its size.
        ground: red, green and blue behind transparent pixels.
        max_pixels: width times height above which an image is not decoded.
        form: channels and bits of a set that is not RGB of 8 bits. Its images are all encoded
            again, without loss.

    Returns:
        The image, or what is wrong with it.

    Raises:
        UserError: the package that reads the file is missing.
    """
    found = _read(item, ground, max_pixels, form)
    if isinstance(found, str):
        return found
    encoded, picture = found
    if isinstance(picture, Bands):
        return _checked_bands(picture, item, resize_short_side)
    rgb = picture.rgb
    if item.size is not None and rgb.size != item.size:
        return _other_size(rgb.size, item.size, turned=picture.turned)
    if resize_short_side is not None and min(rgb.size) > resize_short_side:
        encoded, rgb = _shrink(rgb, resize_short_side, png=picture.format == "PNG")
    elif picture.changed:
        encoded = lossless(rgb)
    return Decoded(encoded, *rgb.size, rgb.histogram(), _digest_of(rgb), _notes(picture))


def _read(
    item: Item, ground: Sequence[int], max_pixels: int, form: Form | None
) -> tuple[bytes, Picture | Bands] | str:
    """The bytes and the pixels of an image, or what is wrong with it."""
    if item.problem is not None:
        return item.problem
    try:
        encoded = item.read()
        if form is not None:
            return encoded, decode_bands(encoded, form, max_pixels)
        return encoded, decode(encoded, ground, max_pixels)
    except UserError:
        raise
    except UnfitImageError as error:
        return str(error)
    except MemoryError:
        return "an image too large for this machine's memory"
    except OSError as error:
        if error.errno is None:  # Pillow's own, not the system's
            return f"corrupt image ({type(error).__name__}: {error})"
        return f"unreadable file ({error.strerror or error})"
    except Exception as error:  # a damaged file makes Pillow's decoders raise anything
        return f"corrupt image ({type(error).__name__}: {error})"


def cut_image(
    item: Item,
    tiles: Tiles,
    ground: Sequence[int] = GROUND,
    max_pixels: int = MAX_PIXELS,
    form: Form | None = None,
) -> list[Decoded] | str:
    """Decode an image to its last row, and cut it. Arguments as for :func:`check_image`.

    Returns:
        Its tiles, row by row; an image no larger than a tile as it is; or what is wrong with it.
    """
    found = _read(item, ground, max_pixels, form)
    if isinstance(found, str):
        return found
    _, picture = found
    whole = picture.array if isinstance(picture, Bands) else picture.rgb
    width, height = whole.size if isinstance(whole, Image.Image) else whole.shape[:0:-1]
    places = tiles.places(width, height)
    if len(places) == 1:
        checked = check_image(item, None, ground, max_pixels, form)
        return checked if isinstance(checked, str) else [checked]
    # Of the whole image: an empty tile of one image is no other image's.
    digest = _digest_of(whole)
    cut = []
    for left, top in places:
        box = (left, top, min(left + tiles.side, width), min(top + tiles.side, height))
        own = hashlib.blake2b(f"{digest} {left} {top}".encode(), digest_size=8).digest()
        cut.append(_tile(picture, box, int.from_bytes(own, "big")))
    # Notes count images, not tiles.
    return [replace(cut[0], notes=_notes(picture)), *cut[1:]]


def _tile(picture: Picture | Bands, box: tuple[int, int, int, int], digest: int) -> Decoded:
    """A part of an image: left, top, right and bottom edge in pixels."""
    left, top, right, bottom = box
    size, place = (right - left, bottom - top), (left, top)
    if isinstance(picture, Bands):
        # A copy of its own: the whole image is not kept alive by a part.
        array: Array = picture.array[:, top:bottom, left:right].copy()
        return Decoded(pack(array), *size, [], digest, sums=Sums.of(array), place=place)
    rgb = picture.rgb.crop(box)
    encoded = _encoded(rgb, png=picture.format == "PNG")
    return Decoded(encoded, *size, rgb.histogram(), digest, place=place)


def _notes(picture: Picture | Bands) -> tuple[Note, ...]:
    return tuple(note for note in NOTES if getattr(picture, note, False))


def _checked_bands(picture: Bands, item: Item, resize_short_side: int | None) -> Decoded | str:
    """The stored form of an image of any channels, or what is wrong with it."""
    array = picture.array
    height, width = array.shape[1:]
    if item.size is not None and (width, height) != item.size:
        return _other_size((width, height), item.size, turned=picture.turned)
    if resize_short_side is not None and min(width, height) > resize_short_side:
        size = _shrunk_size((width, height), resize_short_side)
        array = resized(array, lambda band: band.resize(size, Image.Resampling.BICUBIC))
        width, height = size
    digest = _digest_of(array)
    return Decoded(pack(array), width, height, [], digest, _notes(picture), Sums.of(array))


def _hash_of(array: Array) -> hashlib.blake2b:
    pixels = hashlib.blake2b(repr((array.shape, array.dtype.str)).encode(), digest_size=8)
    pixels.update(np.ascontiguousarray(array).data)
    return pixels


def _digest_of(whole: Image.Image | Array) -> int:
    """64 bits of a hash of the size and the pixels of an image."""
    pixels = _hash_of_rgb(whole) if isinstance(whole, Image.Image) else _hash_of(whole)
    return int.from_bytes(pixels.digest(), "big")


def _hash_of_rgb(rgb: Image.Image) -> hashlib.blake2b:
    pixels = hashlib.blake2b(repr(rgb.size).encode(), digest_size=8)
    rows = max(1, _HASHED_PIXELS // rgb.width)
    for top in range(0, rgb.height, rows):
        bottom = min(rgb.height, top + rows)
        part = rgb if rows >= rgb.height else rgb.crop((0, top, rgb.width, bottom))
        pixels.update(part.tobytes())
    return pixels


def _other_size(size: tuple[int, int], stated: tuple[int, int], *, turned: bool) -> str:
    found = _sized(size)
    if turned and size == stated[::-1]:
        return (
            f"{found} pixels upright, as its EXIF orientation says, but the annotations say "
            f"{_sized(stated)}, its size unturned; state the upright size and boxes, or remove the "
            "orientation from the file"
        )
    return f"{found} pixels, but the annotations say {_sized(stated)}"


def _shrink(rgb: Image.Image, short_side: int, *, png: bool) -> tuple[bytes, Image.Image]:
    size = _shrunk_size(rgb.size, short_side)
    shrunk = rgb.resize(size, Image.Resampling.BICUBIC)
    return _encoded(shrunk, png=png), shrunk


def _encoded(rgb: Image.Image, *, png: bool) -> bytes:
    file = io.BytesIO()
    if png or max(rgb.size) > _JPEG_SIDE:
        rgb.save(file, "PNG")
    else:
        rgb.save(file, "JPEG", quality=95)
    return file.getvalue()


def _shrunk_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    scale = short_side / min(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _sized(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def check_label(label: int | None, classes: int) -> str | None:
    """Fault of a label, or None."""
    if label is None or not 0 <= label < classes:
        return f"label {label} is outside 0 to {classes - 1}"
    return None


def check_caption(caption: object) -> str | None:
    """Fault of a caption, or None."""
    return None if written(caption) else f"unreadable caption {shown(caption)}"


def check_name(name: str) -> str | None:
    """Fault of an image's name, if it has one."""
    return None if is_text(name) else "its name is not UTF-8; rename it"
