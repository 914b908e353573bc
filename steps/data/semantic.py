"""Semantic masks of files: a class for each pixel, checked and stored as grey PNGs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from steps.artifacts import read_manifest
from steps.data.annotations import IGNORED, SemanticMasks, need_masks
from steps.data.segmentations import Mask
from steps.data.shards import Images

BACKGROUND = "background"
_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
"""Modes of Pillow with one value per pixel; of a palette it is the index."""


class MaskError(ValueError):
    """Fault of a mask, in words that follow its image's name."""


def encode_mask(
    encoded: bytes,
    size: tuple[int, int],
    classes: Mapping[int, int],
    ignored: Sequence[int] | None,
) -> tuple[bytes, npt.NDArray[np.int64]]:
    """A mask file as a grey PNG of class indices, ``IGNORED`` where the class is not known.

    Args:
        encoded: the file.
        size: width and height of its image.
        classes: class of each value.
        ignored: values without a class; None: all others.

    Returns:
        The PNG, and the pixels of each class (C,).

    Raises:
        MaskError: it is no mask of this image, or has a value beyond the classes.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG",)) as image:
            if image.mode not in _MODES:
                raise MaskError(
                    f"its mask is a PNG of colours ({image.mode}), not of one value per pixel"
                )
            if image.size != size:
                raise MaskError(
                    f"its mask has {image.width}x{image.height} pixels, and the image has "
                    f"{size[0]}x{size[1]}"
                )
            values = np.asarray(image).astype(np.int64)
    except MaskError:
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise anything
        raise MaskError(f"its mask is no whole PNG ({type(error).__name__}: {error})") from error
    found, places = np.unique(values, return_inverse=True)
    known = [classes.get(int(value), IGNORED) for value in found]
    allowed = {*classes, *(found.tolist() if ignored is None else ignored)}
    if beyond := [int(value) for value in found if int(value) not in allowed]:
        spared = "" if not ignored else f"; ignored: {', '.join(map(str, ignored))}"
        raise MaskError(
            f"its mask has the value {beyond[0]}, of no class (values {min(classes)} to "
            f"{max(classes)}{spared})"
        )
    mask = np.array(known, np.uint8)[places].reshape(values.shape)
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    counts = np.bincount(mask[mask != IGNORED], minlength=len(classes))
    return file.getvalue(), counts.astype(np.int64)


class StoredMasks:
    """The semantic masks of a split of kind ``masks``, in the order of its images.

    Args:
        folder: the prepared dataset.
        split: train or val.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.classes: tuple[str, ...] = tuple(read_manifest(folder, "prepare").facts["classes"])
        self._images = Images(folder, split)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Mask:
        """(height, width) uint8."""
        with Image.open(io.BytesIO(self._images.mask(index))) as image:
            return np.asarray(image)


def pixel_classes(folder: Path, split: str) -> SemanticMasks | StoredMasks:
    """A class for each pixel: of semantic masks, or of the masks of objects.

    Raises:
        UserError: the set has neither.
    """
    return StoredMasks(folder, split) if _is_semantic(folder) else SemanticMasks(folder, split)


def need_pixel_classes(folder: Path, task: str) -> None:
    """Stop a task before any work where pixels have no class.

    Raises:
        UserError: they have none.
    """
    if not _is_semantic(folder):
        need_masks(folder, task)


def _is_semantic(folder: Path) -> bool:
    return bool(read_manifest(folder, "prepare").facts.get("kind") == "masks")
