"""Interface of readers: for each split its items in a fixed order, images not yet decoded."""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

from steps.command import UserError
from steps.params.sets import HeldOut, Kind

ENVIRONMENT = "PRETEXT_DATA"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ARRAY_SUFFIXES = (".npy",)
"""Endings of further files that are images of a set which is not RGB of 8 bits."""
_FEW = 1000
FILE, FOLDER, ABSENT = "a file", "a folder", "nothing"


@dataclass(frozen=True)
class Problem:
    """Fault of one item, in words that name it."""

    split: str
    item: str
    problem: str


@dataclass(frozen=True)
class Item:
    """One image of a split and what is known about it."""

    id: str
    read: Callable[[], bytes]
    """The encoded image file. May raise OSError."""
    label: int | None = None
    captions: tuple[str, ...] = ()
    image_id: int | None = None
    """The image's number in COCO's files, as the next two fields."""
    size: tuple[int, int] | None = None
    """Width and height that the annotation file states."""
    annotations: tuple[dict[str, Any], ...] = ()
    """Boxes and masks, not yet checked, as they stand in the annotation file."""
    factors: Mapping[str, int] = field(default_factory=dict)
    """Factors of a drawn image: by name, an index into the source's values."""
    problem: str | None = None
    """Fault that the reader already found."""
    labels: tuple[int, ...] | None = None
    """All classes of an image of a set with several labels each."""
    number: float | None = None
    mask: Callable[[], bytes] | None = None
    """The encoded semantic mask. May raise OSError."""
    """The number of an image, in a set that has them."""


class Source(ABC):
    """A dataset on disk, or drawn. Splits are ``train`` and ``val``."""

    kind: Kind
    classes: list[str]
    """Names in the order of the labels; empty for a caption set."""
    numbered: bool = False
    """True if nothing names the classes, and their names are the labels' numbers from 0 on."""
    mask_classes: Mapping[int, int] = {}
    """Class of each value of a semantic mask."""
    mask_ignored: Sequence[int] | None = ()
    """Values of a semantic mask that are ignored; None: all that are none of a class."""
    has_captions: bool = False
    categories: Sequence[dict[str, Any]] = ()
    """COCO's categories, in the order of ``classes`` (detection)."""

    factors: Mapping[str, Sequence[str]] = {}
    """The values of each factor that images are drawn by, in order; empty where none is told."""

    @abstractmethod
    def names(self, split: str) -> Sequence[str]:
        """The id of every item in order, without reading an image."""

    @abstractmethod
    def labels(self, split: str) -> Sequence[int | None]:
        """The label of every item in order (None: it has none), without reading an image."""

    def classes_of(self, split: str) -> Sequence[Sequence[int]]:
        """The classes of every item in order, without reading an image."""
        known = range(len(self.classes))
        return [
            (label,) if label is not None and label in known else () for label in self.labels(split)
        ]

    @abstractmethod
    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        """The items at the positions ``keep``, which ascend, one at a time."""

    def problems(self, split: str) -> list[Problem]:
        """Faults that no item has: annotations without an image, files that are none."""
        return []

    def left_out(self, split: str) -> Mapping[str, int]:
        """Numbers of files that are no images by their names, by suffix, and were passed over."""
        return {}


def given(dataset: Any) -> dict[str, Any]:
    """The places of the splits that params give: without ``val`` where it is held out of train."""
    places = {"train": dataset.train, "val": dataset.val}
    return {split: place for split, place in places.items() if not isinstance(place, HeldOut)}


class HeldOutSource(Source):
    """A source whose ``val`` is a part of its ``train``.

    Args:
        source: with the split ``train``.
        held_out: which part.
        where: the params' key, for errors.

    Raises:
        UserError: an image is of no group, or one of the two splits would be empty.
    """

    def __init__(self, source: Source, held_out: HeldOut, where: str) -> None:
        self._source = source
        self.kind, self.classes, self.categories = source.kind, source.classes, source.categories
        self.has_captions, self.factors = source.has_captions, source.factors
        self.mask_classes, self.mask_ignored = source.mask_classes, source.mask_ignored
        self.numbered, self._classes_of = source.numbered, source.classes_of("train")
        self._labels = source.labels("train")
        chosen = hold_out(source.names("train"), self._labels, held_out, where, self._classes_of)
        every = range(len(self._labels))
        self._indices = {
            "train": [index for index in every if index not in chosen],
            "val": [index for index in every if index in chosen],
        }

    def names(self, split: str) -> list[str]:
        names = self._source.names("train")
        return [names[index] for index in self._indices[split]]

    def labels(self, split: str) -> list[int | None]:
        return [self._labels[index] for index in self._indices[split]]

    def classes_of(self, split: str) -> list[Sequence[int]]:
        return [self._classes_of[index] for index in self._indices[split]]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        return self._source.items("train", [self._indices[split][index] for index in keep])

    def problems(self, split: str) -> list[Problem]:
        return self._source.problems("train") if split == "train" else []

    def left_out(self, split: str) -> Mapping[str, int]:
        return self._source.left_out("train") if split == "train" else {}


def hold_out(
    names: Sequence[str],
    labels: Sequence[int | None],
    held_out: HeldOut,
    where: str,
    classes: Sequence[Sequence[int]],
) -> set[int]:
    """Indices of the items that are held out. Every class keeps an image.

    Args:
        names: of all items.
        labels: of all items; None: none.
        held_out: share, seed and group.
        where: the params' key, for errors.
        classes: all classes of each item.

    Raises:
        UserError: an item is of no group, or one of the two parts would be empty.
    """
    groups: dict[tuple[int | None, str], list[int]] = {}
    for index, (name, label) in enumerate(zip(names, labels, strict=True)):
        # A group may hold images of several classes: it is held out as a whole.
        key = (label, name) if held_out.group is None else (None, _group(name, held_out, where))
        groups.setdefault(key, []).append(index)
    chosen: set[int] = set()
    standing = Counter(each for some in classes for each in some)
    for label in {label for label, _ in groups}:
        own = [key for key in groups if key[0] == label]
        own.sort(key=lambda key: _draw(held_out.seed, key[1]))
        images = sum(len(groups[key]) for key in own)
        wanted = max(1, round(held_out.share * images))
        taken = 0
        for key in own[:-1]:  # the last stays in train
            if taken >= wanted:
                break
            lost = Counter(each for index in groups[key] for each in classes[index])
            if any(standing[each] == count for each, count in lost.items()):
                continue
            standing.subtract(lost)
            chosen.update(groups[key])
            taken += len(groups[key])
    if not chosen:
        found = f"{len(groups)} groups" if held_out.group is not None else f"{len(names)} images"
        raise UserError(
            where,
            f"{found}, of which none can be held out",
            allowed=f"at least two{' of a class' * bool(standing)}, so that train keeps one",
            remedy="give val images of its own",
        )
    return chosen


def _draw(seed: int, name: str) -> bytes:
    """A draw that depends on the seed and the name only."""
    return sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()


def _group(name: str, held_out: HeldOut, where: str) -> str:
    assert held_out.group is not None
    found = re.search(held_out.group, name)
    if found is None:
        raise UserError(
            f"{where}.group",
            f"{held_out.group!r} finds no group in the name {name!r}",
            allowed="an expression that every image's name matches",
        )
    return next((group for group in found.groups() if group is not None), found.group())


def data_root() -> Path:
    """The folder that paths in dataset params start from: $PRETEXT_DATA, else ``data``."""
    return Path(os.environ.get(ENVIRONMENT) or "data")


def existing_folder(name: str, content: str) -> Path:
    """The folder ``name`` under the data root.

    Args:
        name: as the params give it.
        content: what has to lie in it, for the error.

    Raises:
        UserError: it is absent, empty, not readable or no folder.
    """
    path = data_root() / name
    kind = kind_of(path)
    if kind != FOLDER:
        raise _missing(
            path, "no such folder" if kind == ABSENT else f"{kind}, not a folder", content
        )
    try:
        empty = not any(path.iterdir())
    except OSError as error:
        raise UserError(str(path), f"unreadable folder ({error.strerror})") from error
    if empty:
        raise _missing(path, "an empty folder", content)
    return path


def existing_file(name: str, content: str) -> Path:
    """The file ``name`` under the data root.

    Raises:
        UserError: it is absent, or no file.
    """
    path = data_root() / name
    kind = kind_of(path)
    if kind != FILE:
        raise _missing(path, "no such file" if kind == ABSENT else f"{kind}, not a file", content)
    return path


def existing_files(pattern: str, content: str) -> list[Path]:
    """The files that match a glob, absolute or under the data root, sorted.

    Raises:
        UserError: there are none, one is no file, or the pattern is no glob.
    """
    place = data_root() / pattern
    anchor = PurePath(pattern).anchor
    root = Path(anchor) if anchor else data_root()
    parts = PurePath(pattern).relative_to(anchor).parts
    try:
        found = sorted(root.glob("/".join(parts))) if parts else [root]
    except (ValueError, IndexError, OSError, NotImplementedError, RecursionError) as error:
        raise UserError(
            str(place),
            f"not a glob ({error})",
            allowed="a path in which *, ? and [] stand for names",
        ) from error
    files = []
    for path in found:
        kind = kind_of(path)
        if kind == FILE:
            files.append(path)
        elif kind != FOLDER or PurePath(pattern).suffix:
            raise UserError(
                str(path),
                f"{kind}, not a file, matches {pattern}",
                remedy="remove it, or give a pattern that leaves it out",
            )
    if not files:
        raise _missing(place, "no file matches", content)
    return files


def suffixes(dataset: Any) -> tuple[str, ...]:
    """Endings of the image files of a set."""
    return IMAGE_SUFFIXES if dataset.is_rgb else (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)


def image_names(taken: Sequence[str] = IMAGE_SUFFIXES) -> str:
    """Endings of image files, for errors."""
    return ", ".join(taken)


def short_names(files: Sequence[Path]) -> dict[Path, str]:
    """A name for each file that no other has: without folder and suffix, where that does."""
    stems = Counter(path.stem for path in files)
    if len(stems) == len(files):
        return {path: path.stem for path in files}
    top = Path(os.path.commonpath([path.parent for path in files]))
    return {path: path.relative_to(top).as_posix() for path in files}


def kind_of(path: str | Path) -> str:
    """Kind of file at a path, in words, links followed; nothing is opened: a FIFO cannot stall."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a broken link" if os.path.islink(path) else ABSENT
    except OSError as error:
        return f"unreadable ({error.strerror})"
    except ValueError:  # NUL, or text that no file system holds
        return ABSENT
    kinds = {
        FILE: stat.S_ISREG,
        FOLDER: stat.S_ISDIR,
        "a FIFO": stat.S_ISFIFO,
        "a socket": stat.S_ISSOCK,
    }
    return next((word for word, applies in kinds.items() if applies(mode)), "a device")


def numbered_classes(labels: Sequence[int | None]) -> list[str]:
    """Class names of a set that gives none: the labels, from 0 to the largest.

    There are never more classes than images, or than a thousand: a label beyond that leaves classes
    without any image, is not counted here, and is named where labels are checked. So one wrong
    number costs nothing.
    """
    most = max(len(labels), _FEW)
    known = (label for label in labels if label is not None and label < most)
    return [str(label) for label in range(max(known, default=-1) + 1)]


def written_classes(labels: Collection[str]) -> list[str]:
    """Class names of a set whose labels are text, in order; numbers by value: 2 before 10."""
    numeric = all(label.isdecimal() for label in labels)
    return sorted(labels, key=int if numeric else None)


def _missing(path: Path, found: str, content: str) -> UserError:
    root = os.environ.get(ENVIRONMENT)
    origin = f"{ENVIRONMENT} is {root}" if root else f"{ENVIRONMENT} is not set"
    return UserError(
        str(path),
        found,
        remedy=f"put {content} there, or set {ENVIRONMENT} to the folder that the paths in the "
        f"dataset's params start from (now {data_root()}: {origin})",
    )
