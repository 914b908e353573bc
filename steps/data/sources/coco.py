"""COCO's formats: images in a folder; boxes and masks, or several sentences, in one JSON file."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from steps.command import UserError
from steps.data.names import check_label_names, written
from steps.data.sources.source import (
    ABSENT,
    FILE,
    Item,
    Problem,
    Source,
    existing_file,
    existing_folder,
    given,
    kind_of,
)
from steps.data.values import shown, whole
from steps.params.dataset import AnnotatedFolder, CocoCaptionsDataset, CocoDataset
from steps.params.names import leads_out

# --- COCO's instances format: images in a folder, boxes and masks in one JSON file


_LONGEST_NAME = 1024
"""Bytes of a file_name: more is a mistake, and would fill every message."""


class _FromCoco(Source):
    """Items in the order of the images' numbers; ids are their file names."""

    _splits: dict[str, AnnotatedImages]

    def names(self, split: str) -> list[str]:
        return self._splits[split].names

    def labels(self, split: str) -> Sequence[int | None]:
        return [None] * len(self._splits[split].images)

    def problems(self, split: str) -> list[Problem]:
        return self._splits[split].problems


class CocoSource(_FromCoco):
    """Items in the order of the images' numbers; ids are their file names.

    Categories keep the numbers that they have in the training split's file.
    """

    kind = "detection"

    def __init__(self, dataset: CocoDataset) -> None:
        self._splits = {
            split: AnnotatedImages(split, files, "instances")
            for split, files in given(dataset).items()
        }
        categories = [annotated.categories() for annotated in self._splits.values()]
        names = [{item["id"]: item["name"] for item in found} for found in categories]
        if names[0] != names[-1]:
            raise UserError(
                str(self._splits["val"].path),
                "its categories differ from those of train",
                remedy="use the two files of one release",
            )
        self.categories = categories[0]
        self.classes = [str(category["name"]) for category in self.categories]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        annotated = self._splits[split]
        for position in keep:
            yield annotated.item(position, annotations=annotated.of_image(position))


class AnnotatedImages:
    """A JSON file of COCO and the folder of its images.

    Args:
        split: for the problems' names.
        files: where the two lie.
        name: instances or captions, for the error.

    Raises:
        UserError: one of the two is missing, the JSON is not COCO's, or two of its images have
            one number or one file.
    """

    def __init__(self, split: str, files: AnnotatedFolder, name: str) -> None:
        self.folder = existing_folder(files.images, "the split's image files")
        self.path = existing_file(files.annotations, f"the JSON of COCO's {name} format")
        self._content = _read(self.path)
        self.problems: list[Problem] = []
        """Entries that are no images, and annotations without one."""
        self.images: list[dict[str, Any]] = []
        """COCO's image objects, by number: id, file_name, width and height."""
        for i, found in enumerate(self._content["images"]):
            image = _image(found)
            if isinstance(image, str):
                self.problems.append(Problem(split, f"images[{i}]", image))
            else:
                self.images.append(image)
        self.images.sort(key=lambda image: int(image["id"]))
        self._refuse_twice()
        known = {image["id"] for image in self.images}
        self._by_image: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for i, annotation in enumerate(self._content["annotations"]):
            if not isinstance(annotation, dict):
                problem = f"{shown(annotation)}, not an object of COCO's format"
                self.problems.append(Problem(split, f"annotations[{i}]", problem))
                continue
            number = whole(annotation.get("image_id"))
            if number is not None and number in known:
                self._by_image[number].append(annotation)
            else:
                which = shown(annotation.get("image_id"))
                self.problems.append(
                    Problem(
                        split,
                        f"annotation {shown(annotation.get('id', i))}",
                        f"is for image {which}, which the file does not list",
                    )
                )

    def _refuse_twice(self) -> None:
        seen: dict[object, dict[str, Any]] = {}
        for image in self.images:
            for key in (image["id"], PurePath(image["file_name"])):
                if key in seen:
                    first, second = shown(seen[key]["file_name"]), shown(image["file_name"])
                    what = f"two images have the same id {key}" if key == image["id"] else ""
                    raise UserError(
                        str(self.path),
                        f"{what or 'an image is listed twice'}: {first} and {second}",
                        remedy="give each image one entry with an id of its own",
                    )
                seen[key] = image

    def categories(self) -> list[dict[str, Any]]:
        """COCO's categories: id, name and, where it is text, supercategory.

        Raises:
            UserError: there are none, one has no whole number or no name, or two have the same.
        """
        found = self._content.get("categories")
        if not isinstance(found, list) or not found:
            raise UserError(str(self.path), "no categories", allowed="COCO's instances format")
        categories: list[dict[str, Any]] = []
        seen: set[int] = set()
        for i, category in enumerate(found):
            if not isinstance(category, dict) or not {"id", "name"} <= category.keys():
                raise UserError(str(self.path), f"categories[{i}] has no id and name")
            number, name = whole(category["id"]), category["name"]
            if number is None or not written(name):
                key, allowed = ("id", "a whole number") if number is None else ("name", "text")
                raise UserError(
                    f"{self.path}: categories[{i}].{key}", shown(category[key]), allowed=allowed
                )
            if number in seen:
                raise UserError(
                    f"{self.path}: categories[{i}]",
                    f"another category has the id {number} too",
                    remedy="give each category an id of its own",
                )
            seen.add(number)
            kept = {"id": number, "name": name}
            if written(category.get("supercategory")):
                kept["supercategory"] = category["supercategory"]
            categories.append(kept)
        check_label_names([category["name"] for category in categories], str(self.path))
        return categories

    @property
    def names(self) -> list[str]:
        """The file name of each image, by number."""
        return [image["file_name"] for image in self.images]

    def of_image(self, position: int) -> tuple[dict[str, Any], ...]:
        """The annotations of an image."""
        return tuple(self._by_image.get(self.images[position]["id"], ()))

    def item(self, position: int, **more: Any) -> Item:
        """The item of an image; ``more`` gives its annotations or captions."""
        image = self.images[position]
        path = self.folder / image["file_name"]
        return Item(
            image["file_name"],
            path.read_bytes,
            image_id=image["id"],
            size=(image["width"], image["height"]),
            problem=self._missing(path),
            **more,
        )

    def _missing(self, path: Path) -> str | None:
        kind = kind_of(path)
        found = "missing" if kind == ABSENT else f"{kind}, not a file"
        if kind == FILE:
            return None
        return f"is named by {self.path.name}, and is {found}, in {self.folder}"


def _image(found: object) -> dict[str, Any] | str:
    """Needed values of COCO's image object, or its fault."""
    if not isinstance(found, dict):
        return f"{shown(found)}, not an image with id, file_name, width and height"
    image: dict[str, Any] = {"id": whole(found.get("id")), "file_name": found.get("file_name")}
    image |= {side: whole(found.get(side)) for side in ("width", "height")}
    for key in ("id", "width", "height"):
        if image[key] is None or (key != "id" and image[key] < 1):
            allowed = "whole number of 64 bits" if key == "id" else "whole number above 0"
            return f"{key} {shown(found.get(key))} is no {allowed}"
    name = image["file_name"]
    if not written(name) or "\0" in name or len(name.encode()) > _LONGEST_NAME:
        return f"file_name {shown(name)} is no name of a file"
    if leads_out(name):
        return f"file_name {shown(name)} leaves the folder of the images"
    return image


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_object)
    except RecursionError as error:
        raise UserError(
            str(path), "nested too deeply for JSON that holds annotations", allowed="COCO's format"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(
            str(path), f"not readable as JSON ({error})", remedy="fetch the file again, whole"
        ) from error
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(str(path), f"no list '{key}' at the top", allowed="COCO's format")
    return dict(content)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return found


# --- COCO's captions format: images in a folder, several sentences for each in one JSON file


class CocoCaptionsSource(_FromCoco):
    """Items in the order of the images' numbers; ids are their file names."""

    kind = "captions"
    has_captions = True

    def __init__(self, dataset: CocoCaptionsDataset) -> None:
        self.classes = []
        self._splits = {
            split: AnnotatedImages(split, files, "captions")
            for split, files in given(dataset).items()
        }

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        annotated = self._splits[split]
        for position in keep:
            captions = tuple(
                annotation.get("caption") for annotation in annotated.of_image(position)
            )
            yield annotated.item(position, captions=captions)
