"""What a reader gives: for each split its items in a fixed order, images not yet decoded."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.command import UserError
from steps.params.dataset import Kind

ENVIRONMENT = "PRETEXT_DATA"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Problem:
    """What is wrong with one item, in words that name it."""

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
    """The image's number in COCO's files; likewise the next two."""
    size: tuple[int, int] | None = None
    """Width and height that the annotation file states."""
    annotations: tuple[dict[str, Any], ...] = ()
    """Boxes and masks, not yet checked, as they stand in the annotation file."""
    problem: str | None = None
    """What the reader already found to be wrong."""


class Source(ABC):
    """A dataset on disk, or drawn. Splits are ``train`` and ``val``."""

    kind: Kind
    classes: list[str]
    """Names in the order of the labels; empty for a caption set."""
    has_captions: bool = False
    categories: Sequence[dict[str, Any]] = ()
    """COCO's categories, in the order of ``classes`` (detection)."""

    @abstractmethod
    def labels(self, split: str) -> Sequence[int | None]:
        """The label of every item in order (None: it has none), without reading an image."""

    @abstractmethod
    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        """The items at the positions ``keep``, which ascend, one at a time."""

    def problems(self, split: str) -> list[Problem]:
        """What is wrong beside the items: annotations without an image, files that are none."""
        return []


def data_root() -> Path:
    """The folder that paths in dataset params start from: $PRETEXT_DATA, else ``data``."""
    return Path(os.environ.get(ENVIRONMENT) or "data")


def existing_folder(name: str, content: str) -> Path:
    """The folder ``name`` under the data root.

    Args:
        name: as the params give it.
        content: what has to lie in it, for the error.

    Raises:
        UserError: it is absent or empty.
    """
    path = data_root() / name
    if not path.is_dir() or not any(path.iterdir()):
        raise _missing(path, "an empty folder" if path.is_dir() else "no such folder", content)
    return path


def existing_file(name: str, content: str) -> Path:
    """The file ``name`` under the data root.

    Raises:
        UserError: it is absent.
    """
    path = data_root() / name
    if not path.is_file():
        raise _missing(path, "no such file", content)
    return path


def existing_files(pattern: str, content: str) -> list[Path]:
    """The files that match a glob under the data root, sorted.

    Raises:
        UserError: there are none.
    """
    files = sorted(path for path in data_root().glob(pattern) if path.is_file())
    if not files:
        raise _missing(data_root() / pattern, "no file matches", content)
    return files


def _missing(path: Path, found: str, content: str) -> UserError:
    root = os.environ.get(ENVIRONMENT)
    origin = f"{ENVIRONMENT} is {root}" if root else f"{ENVIRONMENT} is not set"
    return UserError(
        str(path),
        found,
        remedy=f"put {content} there, or set {ENVIRONMENT} to the folder that the paths in the "
        f"dataset's params start from (now {data_root()}: {origin})",
    )


def check_label_names(classes: Sequence[str], where: str) -> None:
    """Raise where two classes have one name.

    Raises:
        UserError: naming the class.
    """
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise UserError(where, f"two classes have the name '{twice[0]}'", remedy="rename one")
