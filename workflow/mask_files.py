"""Semantic PNG masks among a user's files: their folders, splits and values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from steps.command import UserError
from workflow.places import SPLITS, place_of

_NAMES = frozenset({"mask", "masks", "segmentationclass", "gtfine", "annotations", "labels"})
_IMAGES = frozenset({"image", "images", "img", "imgs", "jpegimages", "leftimg8bit"})
"""Names of the folder of the images that leave no doubt that the other one holds masks."""
_OBJECTS = "segmentationobject"
"""VOC's folder of instances, which are no classes."""
_LISTS = "ImageSets/Segmentation"
"""VOC's folder of lists of the images that have masks."""
_ENDINGS = (
    (None, ".png"),
    ("_leftImg8bit.png", "_gtFine_labelIds.png"),
    ("_leftImg8bit.png", "_gtFine_labelTrainIds.png"),
)
"""Ends of the names of an image and its mask; None: the part from the last point on."""
_OPENED = 500
"""Masks whose values are looked at, evenly spaced."""
_IGNORED = 255
_MODES = ("1", "L", "P", "I", "I;16")
_BY_HAND = "describe the set by hand (docs/data.md, format: masks), or give only the folder of the "
_BY_HAND += "images, to pretrain on them; folders that are classes are read with --format folder"


@dataclass(frozen=True)
class MaskFiles:
    """A set of images with semantic masks."""

    params: dict[str, Any]
    words: str
    notes: tuple[str, ...]
    folders: tuple[str, ...]
    """Image folders, train first, as params name them."""
    certain: bool
    """True if the folders' names can mean nothing else, such as classes."""


def read_masks(folder: Path, names: Sequence[str]) -> MaskFiles | None:
    """The set of a folder of images beside PNG masks; None: there are no masks.

    Args:
        folder: the folder.
        names: of its image files, masks among them.

    Raises:
        UserError: there are masks, and they cannot be read as classes.
    """
    parts = {name: {part.lower() for part in name.split("/")[:-1]} for name in names}
    masks = [name for name in names if parts[name] & _NAMES]
    images = [name for name in names if not parts[name] & {*_NAMES, _OBJECTS}]
    if not masks or not images or not all(name.lower().endswith(".png") for name in masks):
        return None
    said = f"{len(masks):,} PNG masks beside {len(images):,} images"
    image_root, mask_root = _root(images), _root(masks)
    if not image_root or not mask_root or image_root == mask_root:
        raise UserError(
            str(folder),
            f"{said}, not in a folder of images and a folder of masks",
            allowed="two folders of one structure, such as images/a.jpg and masks/a.png",
            remedy=_BY_HAND,
        )
    for image_ending, mask_ending in _ENDINGS:
        stems = _stems(images, image_root, image_ending)
        there = _stems(masks, mask_root, mask_ending)
        if stems & there:
            break
    else:
        raise UserError(
            str(folder),
            f"{said}, and none of them has an image's name, such as {masks[0]}",
            allowed="the name of the image with the ending .png",
            remedy=_BY_HAND,
        )
    params: dict[str, Any] = {"format": "masks"}
    params |= _splits(folder, image_root, mask_root, stems & there)
    if image_ending is not None:
        params |= {"image_ending": image_ending, "mask_ending": mask_ending}
    paired = [f"{mask_root}/{stem}{mask_ending}" for stem in sorted(stems & there)]
    values, opened = _values(folder, paired)
    params |= _classes(values, folder)
    places = (params["train"]["images"], params.get("val", params["train"])["images"])
    notes = (
        f"Classes are the values of {opened:,} masks, in their order: give them their names. 0 is "
        "called background, which the metric miou_objects leaves out.",
    )
    own = {*image_root.lower().split("/")} - {*mask_root.lower().split("/")}
    return MaskFiles(
        params,
        f"{len(paired):,} images with masks ({mask_root})",
        notes,
        (*dict.fromkeys(places),),
        certain=bool(own & _IMAGES),
    )


def _root(names: Sequence[str]) -> str:
    """The folder that holds all of them."""
    return os.path.commonpath([str(PurePosixPath(name).parent) for name in names]).strip(".")


def _stems(names: Sequence[str], root: str, ending: str | None) -> set[str]:
    """Paths below a folder without the ending, of the files that have it."""
    below = [name.removeprefix(f"{root}/") for name in names]
    if ending is None:
        return {str(PurePosixPath(name).with_suffix("")) for name in below}
    return {name.removesuffix(ending) for name in below if name.endswith(ending)}


def _splits(folder: Path, images: str, masks: str, stems: set[str]) -> dict[str, Any]:
    """The splits: by folders of their names, by VOC's lists, or one."""
    whole = {"images": place_of(folder / images), "masks": place_of(folder / masks)}
    lists = {split: folder / _LISTS / f"{split}.txt" for split in ("train", "val")}
    if lists["train"].is_file():
        there = {split: path for split, path in lists.items() if path.is_file()}
        return {split: {**whole, "names": place_of(path)} for split, path in there.items()}
    tops = {stem.split("/")[0] for stem in stems if "/" in stem}
    found = {
        split: next((top for top in sorted(tops) if top.lower() in words), None)
        for split, words in SPLITS.items()
    }
    if found["train"] is None or not all("/" in stem for stem in stems):
        return {"train": whole}
    return {
        split: {key: f"{place}/{top}" for key, place in whole.items()}
        for split, top in found.items()
        if top is not None and split != "test"
    }


def _values(folder: Path, masks: Sequence[str]) -> tuple[list[int], int]:
    """Values in some masks, ascending, and the number of masks looked at.

    Raises:
        UserError: a mask is damaged, or of colours.
    """
    chosen = sorted({len(masks) * index // _OPENED for index in range(_OPENED)})
    found: set[int] = set()
    for name in (masks[index] for index in chosen):
        try:
            with Image.open(folder / name, formats=("PNG",)) as image:
                mode = image.mode
                values = np.unique(np.asarray(image)) if mode in _MODES else np.empty(0)
        except Exception as error:  # a damaged file makes Pillow's decoders raise anything
            raise UserError(
                str(folder / name), f"no whole PNG ({error})", remedy="replace it by a whole one"
            ) from error
        if mode not in _MODES:
            raise UserError(
                str(folder / name),
                f"a mask of colours ({mode})",
                allowed="grey PNGs, or PNGs with a palette, whose values are classes",
                remedy="turn each colour into the number of its class; folders that are classes "
                "are read with --format folder",
            )
        found.update(int(value) for value in values)
    return sorted(found), len(chosen)


def _classes(values: Sequence[int], folder: Path) -> dict[str, Any]:
    """Params of the classes: their names, and their values where these do not count from 0.

    Raises:
        UserError: there are fewer than two, or more than classes can be.
    """
    known = [value for value in values if value != _IGNORED]
    if known == [0] and _IGNORED in values:
        raise UserError(
            str(folder),
            f"masks with 0 and {_IGNORED}, which is read as no class",
            allowed=f"2 to {_IGNORED - 1} values, one for each class, and {_IGNORED} for none",
            remedy=f"if {_IGNORED} is a class, describe the set by hand with values: "
            f"[0, {_IGNORED}] and ignore: [] (docs/data.md, format: masks)",
        )
    if not 2 <= len(known) < _IGNORED:
        raise UserError(
            str(folder),
            f"masks with {len(known)} values",
            allowed=f"2 to {_IGNORED - 1} values, one for each class, and {_IGNORED} for none",
            remedy=_BY_HAND,
        )
    names = ["background" if value == 0 else f"class {value}" for value in known]
    params: dict[str, Any] = {"classes": names}
    if known != list(range(known[0], known[0] + len(known))):
        params["values"] = known
    elif known[0]:
        params["first_value"] = known[0]
    return params
