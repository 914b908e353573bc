"""Images and semantic masks in folders of the same structure: ADE20K's, VOC's and Cityscapes'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from steps.command import UserError
from steps.data.names import check_label_names
from steps.data.sources.folder import walk
from steps.data.sources.images import missing
from steps.data.sources.source import (
    IMAGE_SUFFIXES,
    Item,
    Problem,
    Source,
    existing_file,
    existing_folder,
    given,
    image_names,
)
from steps.params.dataset import MaskedFolder, MasksDataset


class _Pair(NamedTuple):
    name: str
    """Path of the image within the split."""
    image: Path | None
    """None: the list names an image that is not there."""
    mask: Path


class MasksSource(Source):
    """``<images>/a/b.jpg`` with ``<masks>/a/b.png``; ids are the images' paths within the split.

    Hidden files are not looked at. Files that are no images by their names are passed over and
    counted.
    """

    kind = "masks"

    def __init__(self, dataset: MasksDataset) -> None:
        self._dataset = dataset
        self.classes = dataset.classes
        self.mask_classes = {value: label for label, value in enumerate(dataset.class_values)}
        self.mask_ignored = None if dataset.ignore == "others" else dataset.ignore
        self._left_out: dict[str, Counter[str]] = {}
        self._problems: dict[str, list[Problem]] = {}
        self._pairs = {split: self._list(split, place) for split, place in given(dataset).items()}
        check_label_names(self.classes, "classes")

    def names(self, split: str) -> list[str]:
        return [pair.name for pair in self._pairs[split]]

    def labels(self, split: str) -> list[None]:
        return [None] * len(self._pairs[split])

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        for index in keep:
            name, image, mask = self._pairs[split][index]
            problem = "no such image" if image is None else None
            if problem is None and (wrong := missing(mask)) is not None:
                problem = f"its mask {mask}: {wrong}"
            read = mask.read_bytes if image is None else image.read_bytes
            yield Item(name, read, mask=mask.read_bytes, problem=problem)

    def problems(self, split: str) -> list[Problem]:
        return self._problems[split]

    def left_out(self, split: str) -> Mapping[str, int]:
        return self._left_out[split]

    def _list(self, split: str, place: MaskedFolder) -> list[_Pair]:
        self._left_out[split], self._problems[split] = Counter(), []
        root = existing_folder(place.images, "images")
        masks = existing_folder(place.masks, "the images' masks")
        by_stem: dict[str, str] = {}
        for name, problem in walk(root):
            if problem is not None:
                self._problems[split].append(Problem(split, name, problem))
            elif (stem := self._stem(name)) is None:
                self._left_out[split][PurePath(name).suffix.lower() or "without an ending"] += 1
            elif stem in by_stem:
                found = f"the same mask as {by_stem[stem]}, by its name"
                self._problems[split].append(Problem(split, name, found))
            else:
                by_stem[stem] = name
        ending = self._dataset.mask_ending
        if place.names is None:
            if not by_stem:
                ending = self._dataset.image_ending or image_names()
                raise UserError(str(root), "no image", allowed=f"files that end in {ending}")
            return [_Pair(name, root / name, masks / f"{s}{ending}") for s, name in by_stem.items()]
        path = existing_file(place.names, "a list of images")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(str(path), f"unreadable ({error})", allowed="UTF-8 text") from error
        self._left_out[split].clear()
        pairs = []
        for stem in (line.split()[0] for line in lines if line.strip()):
            named = by_stem.get(stem)
            image = None if named is None else root / named
            pairs.append(_Pair(named or stem, image, masks / f"{stem}{ending}"))
        if not pairs:
            raise UserError(str(path), "names no image", allowed="an image per line")
        return pairs

    def _stem(self, name: str) -> str | None:
        """The part of an image's path that its mask shares; None of another file."""
        ending = self._dataset.image_ending
        if ending is not None:
            return name.removesuffix(ending) if name.endswith(ending) else None
        suffix = PurePath(name).suffix
        return name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else None
