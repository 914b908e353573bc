"""COCO's instances format: images in a folder, boxes and masks in one JSON file."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from steps.command import UserError
from steps.data.sources.source import Item, Problem, Source, existing_file, existing_folder
from steps.params.dataset import AnnotatedFolder, CocoDataset


class CocoSource(Source):
    """Items in the order of the images' numbers; ids are their file names.

    Categories keep the numbers that they have in the training split's file.
    """

    kind = "detection"

    def __init__(self, dataset: CocoDataset) -> None:
        self._splits = {
            "train": AnnotatedImages("train", dataset.train, "instances"),
            "val": AnnotatedImages("val", dataset.val, "instances"),
        }
        train, val = (self._splits[split].categories() for split in ("train", "val"))
        if train != val:
            raise UserError(
                dataset.val.annotations,
                "its categories differ from those of train",
                remedy="use the two files of one release",
            )
        self.categories = train
        self.classes = [str(category["name"]) for category in train]

    def labels(self, split: str) -> Sequence[int | None]:
        return [None] * len(self._splits[split].images)

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        annotated = self._splits[split]
        for position in keep:
            yield annotated.item(position, annotations=annotated.of_image(position))

    def problems(self, split: str) -> list[Problem]:
        return self._splits[split].problems


class AnnotatedImages:
    """A JSON file of COCO and the folder of its images.

    Args:
        split: for the problems' names.
        files: where the two lie.
        name: instances or captions, for the error.

    Raises:
        UserError: one of the two is missing, or the JSON is not COCO's.
    """

    def __init__(self, split: str, files: AnnotatedFolder, name: str) -> None:
        self.folder = existing_folder(files.images, "the split's image files")
        self.path = existing_file(files.annotations, f"the JSON of COCO's {name} format")
        self._content = _read(self.path)
        images = [image for image in self._content["images"] if _is_image(image)]
        self.images: list[dict[str, Any]] = sorted(images, key=lambda image: int(image["id"]))
        """COCO's image objects, by number; ``problems`` names the annotations without one."""
        self.problems = [
            Problem(split, f"images[{i}]", "an image without a number, file name and size")
            for i, image in enumerate(self._content["images"])
            if not _is_image(image)
        ]
        numbers = [image["id"] for image in self.images]
        known = set(numbers)
        if len(known) < len(numbers):
            raise UserError(str(self.path), "two images have the same id", remedy="mend the file")
        self._by_image: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for i, annotation in enumerate(self._content["annotations"]):
            number: Any = annotation.get("image_id") if isinstance(annotation, dict) else None
            if number in known:
                self._by_image[number].append(annotation)
            else:
                shown = annotation.get("id", i) if isinstance(annotation, dict) else i
                found = f"is for image {number}, which the file does not list"
                self.problems.append(Problem(split, f"annotation {shown}", found))

    def categories(self) -> list[dict[str, Any]]:
        """COCO's categories.

        Raises:
            UserError: there are none, or one has no number or name.
        """
        found = self._content.get("categories")
        if not isinstance(found, list) or not found:
            raise UserError(str(self.path), "no categories", allowed="COCO's instances format")
        for i, category in enumerate(found):
            if not isinstance(category, dict) or not {"id", "name"} <= category.keys():
                raise UserError(str(self.path), f"categories[{i}] has no id and name")
        return found

    def of_image(self, position: int) -> tuple[dict[str, Any], ...]:
        """The annotations of an image."""
        return tuple(self._by_image.get(self.images[position]["id"], ()))

    def item(self, position: int, **more: Any) -> Item:
        """The item of an image; ``more`` gives its annotations or captions."""
        image = self.images[position]
        path = self.folder / image["file_name"]
        problem = None if path.is_file() else f"{path} is named by {self.path.name}, and is missing"
        return Item(
            image["file_name"],
            path.read_bytes,
            image_id=image["id"],
            size=(image["width"], image["height"]),
            problem=problem,
            **more,
        )


def _is_image(image: object) -> bool:
    return (
        isinstance(image, dict)
        and all(isinstance(image.get(key), int) for key in ("id", "width", "height"))
        and isinstance(image.get("file_name"), str)
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            str(path), f"not readable as JSON ({error})", remedy="fetch the file again, whole"
        ) from error
    for key in ("images", "annotations"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(str(path), f"no list '{key}' at the top", allowed="COCO's format")
    return dict(content)
