"""Validation: every image decoded, every label and caption looked at; what is bad is named."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from steps.command import UserError
from steps.data.sources.source import Item, Problem
from steps.data.values import shown, written

_SHOWN = 3


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
        self.problems.append(Problem(split, item, problem))

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
    """A whole image: its bytes as they will be stored, and the counts of its pixel values."""

    encoded: bytes
    width: int
    height: int
    histogram: list[int]
    """Counts of the 256 values of red, then green, then blue: (768,)."""


def check_image(item: Item, resize_short_side: int | None) -> Decoded | str:
    """Decode an image to its last row.

    Args:
        item: from a reader.
        resize_short_side: shrink a larger image to this many pixels; None: keep the file's bytes.

    Returns:
        The image, or what is wrong with it.
    """
    if item.problem is not None:
        return item.problem
    try:
        encoded = item.read()
    except OSError as error:
        return f"unreadable file ({error.strerror or error})"
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                return f"an image of mode {image.mode}; 8 bits a channel are needed"
            if item.size is not None and image.size != item.size:
                return f"{_sized(image.size)} pixels, but the annotations say {_sized(item.size)}"
            if resize_short_side is not None and min(image.size) > resize_short_side:
                encoded, rgb = _shrink(image, resize_short_side)
            else:
                rgb = image.convert("RGB")
            return Decoded(encoded, rgb.width, rgb.height, rgb.histogram())
    except UnidentifiedImageError:
        return "not an image of a known format"
    except Exception as error:  # a damaged file makes Pillow's decoders raise anything
        return f"corrupt image ({type(error).__name__}: {error})"


def _shrink(image: Image.Image, short_side: int) -> tuple[bytes, Image.Image]:
    scale = short_side / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    rgb = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    if image.format == "PNG":
        rgb.save(file, "PNG")
    else:
        rgb.save(file, "JPEG", quality=95)
    return file.getvalue(), rgb


def _sized(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def check_label(label: int | None, classes: int) -> str | None:
    """What is wrong with a label, if anything."""
    if label is None or not 0 <= label < classes:
        return f"label {label} is outside 0 to {classes - 1}"
    return None


def check_caption(caption: object) -> str | None:
    """What is wrong with a caption, if anything."""
    if not written(caption):
        return f"unreadable caption {shown(caption)}"
    return None
