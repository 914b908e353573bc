"""Image folders: one folder a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from steps.command import UserError
from steps.data.sources.source import (
    IMAGE_SUFFIXES,
    Item,
    Problem,
    Source,
    check_label_names,
    existing_file,
    existing_folder,
)
from steps.params.dataset import FolderDataset


class FolderSource(Source):
    """``<split>/<class>/**/<image>``; ids are the paths within the split.

    The classes are those of the training split. Hidden files are not looked at; any other file
    that is not an image by its name is a problem.
    """

    kind = "classification"

    def __init__(self, dataset: FolderDataset) -> None:
        content = "one folder of images for each class"
        self._folders = {
            "train": existing_folder(dataset.train, content),
            "val": existing_folder(dataset.val, content),
        }
        self._names = sorted(path.name for path in _visible(self._folders["train"], folders=True))
        self.classes = self._names
        if dataset.class_names is not None:
            self.classes = _in_words(self._names, dataset.class_names)
        self._problems: dict[str, list[Problem]] = {}
        self._found = {split: self._list(split) for split in self._folders}

    def labels(self, split: str) -> list[int]:
        return [label for _, label in self._found[split]]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        for position in keep:
            name, label = self._found[split][position]
            path = self._folders[split] / name
            unknown = f"class folder '{name.split('/')[0]}' is not among those of train"
            yield Item(name, path.read_bytes, label, problem=unknown if label < 0 else None)

    def problems(self, split: str) -> list[Problem]:
        return self._problems[split]

    def _list(self, split: str) -> list[tuple[str, int]]:
        """Path within the split and label (-1: not a class of train) of each image, sorted."""
        root = self._folders[split]
        label_of = {name: label for label, name in enumerate(self._names)}
        found: list[tuple[str, int]] = []
        strays = [path.name for path in _visible(root, folders=False)]
        for folder in _visible(root, folders=True):
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(root).as_posix()
                if any(part.startswith(".") for part in name.split("/")) or path.is_dir():
                    continue
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    found.append((name, label_of.get(folder.name, -1)))
                else:
                    strays.append(name)
        self._problems[split] = [
            Problem(split, name, "not an image of a class, by its name or place") for name in strays
        ]
        return found


def _visible(root: Path, *, folders: bool) -> list[Path]:
    return sorted(
        path
        for path in root.iterdir()
        if path.is_dir() == folders and not path.name.startswith(".")
    )


def _in_words(folders: Sequence[str], file: str) -> list[str]:
    """The name that a file gives to each folder.

    Raises:
        UserError: it names no such folder, or two alike.
    """
    path = existing_file(file, "a line a class: its folder, a space, its name")
    pairs = [line.strip().partition(" ") for line in path.read_text(encoding="utf-8").splitlines()]
    words = {folder: name.strip() for folder, _, name in pairs if name.strip()}
    missing = [folder for folder in folders if folder not in words]
    if missing:
        raise UserError(
            str(path),
            f"no name for the class folder '{missing[0]}'"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            allowed="a line a class: its folder, a space, its name",
        )
    names = [words[folder] for folder in folders]
    check_label_names(names, str(path))
    return names
