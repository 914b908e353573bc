"""COCO's JSON files among a user's files: their splits, image folders, boxes and masks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.command import UserError
from steps.data.segmentations import given
from steps.data.sources.source import FILE, kind_of
from workflow.places import place_of, split_in, split_of

_TRIED = 20
"""Images of a file that are looked for in a folder."""
_FEW_BAD = 0.02
"""Share of boxes without area that are left out; more look like another format."""


@dataclass(frozen=True)
class CocoFiles:
    """A detection set in COCO's format."""

    params: dict[str, Any]
    words: str
    notes: tuple[str, ...]
    folders: tuple[str, ...]
    """Image folders, train first, as params name them."""
    given: tuple[Path, ...]
    """Given folders that hold its images."""


def is_coco(path: Path) -> bool:
    """True if a JSON file has COCO's lists of images and annotations."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    )


def read_coco(files: Sequence[Path], folders: Sequence[Path]) -> CocoFiles:
    """The set of one file, or of a file for train and one for val.

    Args:
        files: JSON files in COCO's instances format.
        folders: those that may hold the images, beside those around the files.

    Raises:
        UserError: a file is not COCO's, its images are not found, or there are more files than
            splits.
    """
    splits = _splits(files)
    params: dict[str, Any] = {"format": "coco"}
    places: list[str] = []
    used: list[Path] = []
    boxes = masks = empty = 0
    classes: set[str] = set()
    for split, file in splits.items():
        content = _read(file)
        folder = _image_folder(file, content["images"], folders)
        used += [each for each in folders if folder.is_relative_to(each)]
        places.append(place_of(folder))
        params[split] = {"images": places[-1], "annotations": place_of(file)}
        for box in content["annotations"]:
            boxes += 1
            masks += given(box.get("segmentation"))
            empty += not has_area(box.get("bbox"))
        classes |= {str(each.get("name")) for each in content["categories"]}
    notes: list[str] = []
    params["masks"] = masks == boxes
    if 0 < masks < boxes:
        notes.append(f"{boxes - masks:,} of {boxes:,} objects lack a mask, so masks are not read.")
    if 0 < empty <= _FEW_BAD * boxes:
        params |= {"on_bad": "skip", "max_bad_share": 2 * _FEW_BAD}
        notes.append(f"{empty:,} of {boxes:,} boxes have no area; they are left out and listed.")
    kind = "masks" if params["masks"] else "no masks"
    plural = "" if len(classes) == 1 else "es"
    words = f"{boxes:,} boxes of {len(classes)} class{plural}, {kind}"
    return CocoFiles(params, words, tuple(notes), tuple(dict.fromkeys(places)), tuple(used))


def _splits(files: Sequence[Path]) -> dict[str, Path]:
    if len(files) == 1:
        return {"train": files[0]}
    named = [split_of(file) for file in files]
    found = {split: file for split, file in zip(named, files, strict=True) if split is not None}
    if None in named or len(found) < len(files) or "train" not in found:
        shown = ", ".join(file.name for file in files[:5])
        raise UserError(
            str(files[0].parent),
            f"{len(files)} files in COCO's format: {shown}",
            allowed="one file, or one whose name has train and one whose name has val",
            remedy="give the files that are meant, and the folder of their images",
        )
    return {split: found[split] for split in ("train", "val") if split in found}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            str(path), f"not readable as JSON ({error})", remedy="fetch the file again, whole"
        ) from error
    allowed = "COCO's instances format: lists of images, annotations and categories"
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise UserError(str(path), f"no list '{key}' of objects at the top", allowed=allowed)
        if not entries:
            raise UserError(str(path), f"an empty list '{key}'", allowed=allowed)
    return dict(content)


def has_area(box: object) -> bool:
    """True if a box is four numbers, of which width and height are above 0."""
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(side, int | float) and side > 0 for side in box[2:])
    )


def _image_folder(file: Path, images: Sequence[dict[str, Any]], folders: Sequence[Path]) -> Path:
    """The one folder that holds the images of a file: given, or else as near as can be."""
    names = [str(image.get("file_name")) for image in images]
    tried = names[:: max(1, len(names) // _TRIED)]
    holding: list[Path] = []
    # Further away lie other sets, whose images often have the same names.
    for tops in (folders, [file.parent], [file.parent.parent]):
        near = dict.fromkeys(each for top in tops for each in _below(top))
        holding = [each for each in near if all(kind_of(each / name) == FILE for name in tried)]
        split = split_of(file)
        holding = [each for each in holding if split and split_in(each.name) == split] or holding
        if holding:
            break
    if len(holding) != 1:
        some = " and in ".join(map(str, holding))
        raise UserError(
            str(file),
            f"its images, such as {tried[0]}, are in {some or 'no folder near it'}",
            allowed="one folder that holds all of them",
            remedy="give that folder as a further PATH",
        )
    return holding[0]


def _below(folder: Path) -> Iterator[Path]:
    """A folder, its folders and theirs."""
    yield folder
    for depth in ("*", "*/*"):
        yield from sorted(each for each in folder.glob(depth) if each.is_dir())
