"""An encoded image to upright RGB pixels of 8 bits a channel, or in words why not.

What a plain ``Image.open(...).convert("RGB")`` would lose without a word is done here or refused:
the orientation of a camera, 16 bits a channel, transparency, a fourth band, further frames.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are taken, by content whatever the name says. Others would need a rule of their own
for more than 8 bits (AVIF, JPEG 2000, PPM) or start a program (EPS)."""

# Pillow's own limit is one for all; here it is ``max_pixels`` of a dataset, checked before any
# pixel is decoded.
Image.MAX_IMAGE_PIXELS = None

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Turn that makes an image upright, by the value of its EXIF orientation (CIPA DC-008, 4.6.5)."""

_MAGIC = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"\xff\xd8\xff": "JPEG"}
"""First bytes of formats whose files may be whole and yet not known to Pillow."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 258, 262, 277, 338, 339
_UNSIGNED = (1, 4)
"""Sample formats of a TIFF that count from 0: stated so, or undefined."""
_TIFF_CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
"""Channels of a TIFF's colours, by its photometric interpretation (TIFF 6.0)."""
_TIFF_ALPHA = (1, 2)
"""Extra samples that are alpha: premultiplied, and not."""
_OTHERS = "; other images are taken with channels and bits in a dataset's params"


class UnfitImageError(ValueError):
    """An image that is whole and is not taken; the message says why and what helps."""


@dataclass(frozen=True)
class Picture:
    """Pixels of an image as its photographer saw it."""

    rgb: Image.Image
    format: str
    """Format of the file, such as JPEG."""
    turned: bool
    """An EXIF orientation was applied."""
    composited: bool
    """Transparent pixels were put on the ground."""
    first_of_several: bool
    """The file has further frames or pages, which are left out."""

    @property
    def changed(self) -> bool:
        """True if decoding the file plainly gives other pixels."""
        return self.turned or self.composited


def decode(encoded: bytes, ground: Sequence[int], max_pixels: int) -> Picture:
    """The first frame of an image file, decoded to its last row.

    Args:
        encoded: the file.
        ground: red, green and blue, 0 to 255, behind transparent pixels.
        max_pixels: width times height above which nothing is decoded.

    Raises:
        UnfitImageError: the format is not taken, a channel has more than 8 bits, a band is no
            colour, there are too many pixels, or nothing is seen on this ground.
        Exception: a damaged file makes Pillow's decoders raise anything.
    """
    with opened(encoded) as image:
        check_pixels(image.width, image.height, max_pixels)
        _check_bands(image)
        several = bool(getattr(image, "is_animated", False))
        image.load()
        if image.mode.startswith(("I", "F")):
            raise UnfitImageError(
                f"an image of mode {image.mode}; 8 bits a channel are needed{_OTHERS}"
            )
        rgb, composited = _on_ground(image, (ground[0], ground[1], ground[2]))
        turn = _UPRIGHT.get(orientation(image))
        return Picture(
            rgb=rgb if turn is None else rgb.transpose(turn),
            format=image.format or "",
            turned=turn is not None,
            composited=composited,
            first_of_several=several,
        )


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise UnfitImageError for an image of more pixels than its set takes."""
    if width * height > max_pixels:
        raise UnfitImageError(
            f"{width}x{height} pixels are more than max_pixels, {max_pixels}; to take it, raise "
            "max_pixels in the dataset's params"
        )


def stored_pixels(encoded: bytes) -> Image.Image:
    """RGB pixels of an image that a prepared dataset holds, which were checked then."""
    return Image.open(io.BytesIO(encoded)).convert("RGB")


def lossless(rgb: Image.Image) -> bytes:
    """A PNG of these pixels and of nothing else: no orientation, no colour key."""
    file = io.BytesIO()
    bare = rgb.copy()
    bare.info = {}
    bare.save(file, "PNG")
    return file.getvalue()


def opened(encoded: bytes) -> Image.Image:
    """The image with its header read."""
    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        pass
    try:
        with Image.open(io.BytesIO(encoded)) as other:
            found = other.format
    except Exception as error:
        for magic, name in _MAGIC.items():
            if encoded.startswith(magic):
                raise UnfitImageError(
                    f"a {name} that cannot be read: it is damaged, or its channels are not of 8 "
                    "bits, or not gray or RGB with or without alpha, or CMYK"
                ) from error
        raise UnfitImageError("not an image of a known format") from error
    raise UnfitImageError(f"an image of format {found}; {', '.join(FORMATS)} are taken")


def _check_bands(image: Image.Image) -> None:
    """Raise where Pillow would cut values or drop a band: it calls these RGB."""
    if image.format == "PNG":
        tiles = image.tile  # type: ignore[attr-defined]
        raw = str(tiles[0][3]) if tiles else ""
        if "16" in raw:
            raise UnfitImageError(f"16 bits a channel; 8 bits a channel are needed{_OTHERS}")
    if image.format != "TIFF":
        return
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
    if bits > 8:
        raise UnfitImageError(f"{bits} bits a channel; 8 bits a channel are needed{_OTHERS}")
    if any(kind not in _UNSIGNED for kind in tags.get(_SAMPLE_FORMAT, ())):
        raise UnfitImageError(
            "channels of signed or floating numbers; 8 bits from 0 to 255 are needed"
        )
    colours = _TIFF_CHANNELS.get(tags.get(_PHOTOMETRIC, 0))
    further = 0 if colours is None else tags.get(_SAMPLES, 1) - colours
    marked = tuple(tags.get(_EXTRA_SAMPLES, ()))
    alpha = further == 1 and len(marked) == 1 and marked[0] in _TIFF_ALPHA and colours != 4
    if further > 0 and not alpha:
        raise UnfitImageError(
            f"{further} band{'s' if further > 1 else ''} more than its {colours} of colour, not "
            f"marked as alpha (ExtraSamples 1 or 2); remove what is no colour, or mark it{_OTHERS}"
        )


def orientation(image: Image.Image) -> int:
    """The value of the EXIF tag; 1 where there is none, or none that can be read."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF makes Pillow raise anything; the pixels are whole
        return 1


def _on_ground(image: Image.Image, ground: tuple[int, int, int]) -> tuple[Image.Image, bool]:
    """RGB, and whether any pixel was transparent."""
    if not image.has_transparency_data:
        return _rgb(image), False
    # From premultiplied gray, Pillow goes to RGB through gray with alpha only: it is never kept.
    premultiplied = image.mode == "La"
    rgba = (image.convert("LA") if premultiplied else image).convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255) and not premultiplied:
        return _rgb(image), False
    behind = Image.new("RGBA", rgba.size, (*ground, 255))
    rgb = Image.alpha_composite(behind, rgba).convert("RGB")
    if rgb.getextrema() == tuple((value, value) for value in ground):
        raise UnfitImageError(
            f"nothing is seen of it on the ground {list(ground)}, as it is transparent or of that "
            "colour; to take it, set another ground in the dataset's params"
        )
    return rgb, True


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
