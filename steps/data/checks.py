"""Validation: every image decoded, every label and caption looked at; what is bad is named."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from steps.command import UserError
from steps.data.decoding import Picture, UnfitImageError, decode, lossless
from steps.data.names import escaped, is_text, written
from steps.data.sources.source import Item, Problem
from steps.data.values import shown
from steps.params.dataset import GROUND, MAX_PIXELS

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
    """Counts of the 256 values of red, then green, then blue: (768,)."""
    digest: int
    """64 bits of a hash of size and pixels: images of one digest are the same image."""
    notes: tuple[Note, ...] = ()
    mask: bytes | None = None
    """Its semantic mask, as it will be stored."""
    mask_pixels: npt.NDArray[np.int64] | None = None
    """Pixels of each class (C,) in the mask."""


def check_image(
    item: Item,
    resize_short_side: int | None = None,
    ground: Sequence[int] = GROUND,
    max_pixels: int = MAX_PIXELS,
) -> Decoded | str:
    """Decode an image to its last row.

    The file's bytes are kept where decoding them plainly gives the right pixels. What had to be
    turned, put on a ground or shrunk is encoded again.

    Args:
        item: from a reader.
        resize_short_side: shrink a larger image to this many pixels; None: keep its size.
        ground: red, green and blue behind transparent pixels.
        max_pixels: width times height above which an image is not decoded.

    Returns:
        The image, or what is wrong with it.
    """
    if item.problem is not None:
        return item.problem
    try:
        encoded = item.read()
        picture = decode(encoded, ground, max_pixels)
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
    rgb = picture.rgb
    if item.size is not None and rgb.size != item.size:
        return _other_size(picture, item.size)
    notes = [note for note in NOTES if getattr(picture, note)]
    if resize_short_side is not None and min(rgb.size) > resize_short_side:
        encoded, rgb = _shrink(rgb, resize_short_side, png=picture.format == "PNG")
    elif picture.changed:
        encoded = lossless(rgb)
    return Decoded(encoded, *rgb.size, rgb.histogram(), _digest(rgb), tuple(notes))


def _digest(rgb: Image.Image) -> int:
    pixels = hashlib.blake2b(repr(rgb.size).encode(), digest_size=8)
    rows = max(1, _HASHED_PIXELS // rgb.width)
    for top in range(0, rgb.height, rows):
        bottom = min(rgb.height, top + rows)
        part = rgb if rows >= rgb.height else rgb.crop((0, top, rgb.width, bottom))
        pixels.update(part.tobytes())
    return int.from_bytes(pixels.digest(), "big")


def _other_size(picture: Picture, stated: tuple[int, int]) -> str:
    found = _sized(picture.rgb.size)
    if picture.turned and picture.rgb.size == stated[::-1]:
        return (
            f"{found} pixels upright, as its EXIF orientation says, but the annotations say "
            f"{_sized(stated)}, its size unturned; state the upright size and boxes, or remove the "
            "orientation from the file"
        )
    return f"{found} pixels, but the annotations say {_sized(stated)}"


def _shrink(rgb: Image.Image, short_side: int, *, png: bool) -> tuple[bytes, Image.Image]:
    scale = short_side / min(rgb.size)
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    shrunk = rgb.resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    if png or max(size) > _JPEG_SIDE:
        shrunk.save(file, "PNG")
    else:
        shrunk.save(file, "JPEG", quality=95)
    return file.getvalue(), shrunk


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
