"""Image folders: one folder per class."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath

from steps.command import UserError
from steps.data.names import check_label_names, is_text, same_written
from steps.data.sources.source import (
    FILE,
    Item,
    Problem,
    Source,
    existing_file,
    existing_folder,
    given,
    image_names,
    kind_of,
    suffixes,
)
from steps.params.dataset import FolderDataset


class FolderSource(Source):
    """``<split>/<class>/**/<image>``; ids are the paths within the split.

    The classes are those of the training split. Links are followed, and each folder is read once a
    class. Hidden files are not looked at; any other file that is not an image by its name is a
    problem.
    """

    kind = "classification"

    def __init__(self, dataset: FolderDataset) -> None:
        content = "one folder of images for each class"
        self._suffixes = suffixes(dataset)
        self._folders = {
            split: existing_folder(place, content) for split, place in given(dataset).items()
        }
        folders, files = _listed(self._folders["train"])
        if not folders:
            raise UserError(
                str(self._folders["train"]),
                f"no class folder, and {len(files)} files",
                allowed=content,
                remedy="put the images of each class into a folder of its name; without labels, to "
                "pretrain on, the format is images",
            )
        self._names = [name for name in folders if is_text(name)]
        check_label_names(self._names, str(self._folders["train"]))
        self.classes = self._names
        if dataset.class_names is not None:
            self.classes = _in_words(self._names, dataset.class_names)
        self._problems: dict[str, list[Problem]] = {}
        self._found = {split: self._list(split) for split in self._folders}

    def names(self, split: str) -> list[str]:
        return [name for name, _ in self._found[split]]

    def labels(self, split: str) -> list[int]:
        return [label for _, label in self._found[split]]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        for position in keep:
            name, label = self._found[split][position]
            path = self._folders[split] / name
            problem = self._unknown(name.split("/")[0]) if label < 0 else None
            yield Item(name, path.read_bytes, label, problem=problem)

    def problems(self, split: str) -> list[Problem]:
        return self._problems[split]

    def _unknown(self, folder: str) -> str:
        """Fault of a folder that is no class."""
        if not is_text(folder):
            return f"the name of class folder '{folder}' is not UTF-8; rename it"
        twin = [name for name in self._names if same_written(name) == same_written(folder)]
        hint = ", where its accents are encoded in another way; rename one" if twin else ""
        return f"class folder '{folder}' is not among those of train{hint}"

    def _list(self, split: str) -> list[tuple[str, int]]:
        """Path within the split and label (-1: not a class of train) of each image, sorted."""
        root = self._folders[split]
        label_of = {name: label for label, name in enumerate(self._names)}
        found: list[tuple[str, int]] = []
        folders, strays = _listed(root)
        beside = "not an image of a class, as it lies beside the folders"
        problems = [(name, _unless_file(root / name, beside)) for name in strays]
        taken = f"not an image by its name, which ends in {image_names(self._suffixes)}"
        for folder in folders:
            for name, problem in walk(root, folder):
                if problem is not None:
                    problems.append((name, problem))
                elif PurePath(name).suffix.lower() in self._suffixes:
                    found.append((name, label_of.get(folder, -1)))
                else:
                    problems.append((name, taken))
        self._problems[split] = [Problem(split, name, problem) for name, problem in problems]
        return found


def _listed(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders, and of all else, in a folder; hidden ones left out. Sorted.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            kinds = {e.name: _is(e.is_dir) for e in entries if not e.name.startswith(".")}
    except OSError as error:
        raise UserError(str(folder), f"unreadable folder ({error.strerror})") from error
    return (
        sorted(name for name, folder_there in kinds.items() if folder_there),
        sorted(name for name, folder_there in kinds.items() if not folder_there),
    )


def walk(root: Path, folder: str = "") -> list[tuple[str, str | None]]:
    """Paths within ``root`` of all that lies below one of its folders, sorted part by part.

    Each real folder is read once, by the path without links where there is one; a link to a folder
    that holds the folder itself leads round and is not followed.

    Returns:
        Path, and what is wrong where it is no file, or a folder that cannot be read.
    """
    own = os.path.join(os.path.realpath(root / folder), "")
    seen: set[str] = set()
    found: list[tuple[str, str | None]] = []
    real, links = [folder], deque[str]()
    while real or links:
        name = real.pop() if real else links.popleft()
        path = os.path.realpath(root / name)
        if path in seen or (name != folder and own.startswith(os.path.join(path, ""))):
            continue
        seen.add(path)
        try:
            with os.scandir(root / name) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            found.append((name, f"unreadable folder ({error.strerror})"))
            continue
        for entry in entries:
            below = f"{name}/{entry.name}" if name else entry.name
            if entry.name.startswith("."):
                continue
            if not _is(entry.is_dir):
                plain = _is(entry.is_file)
                found.append((below, None if plain else _unless_file(root / below, "no file")))
            elif entry.is_symlink():
                links.append(below)
            else:
                real.append(below)
    return sorted(found, key=lambda one: one[0].split("/"))


def _is(kind: Callable[[], bool]) -> bool:
    """``is_dir`` or ``is_file`` of an entry; of a link that leads back to itself, neither."""
    try:
        return kind()
    except OSError:
        return False


def _unless_file(path: Path, otherwise: str) -> str:
    """Fault of something that is no image of a class; ``otherwise``: if it is a file."""
    kind = kind_of(path)
    return otherwise if kind == FILE else f"{kind}, not an image"


def _in_words(folders: Sequence[str], file: str) -> list[str]:
    """The name that a file gives to each folder.

    Raises:
        UserError: it names no such folder, one twice, or two alike, or is not UTF-8.
    """
    path = existing_file(file, "a line a class: its folder, a space, its name")
    allowed = "a line a class: its folder, a space, its name"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"unreadable ({error})", allowed=allowed) from error
    pairs = [line.strip().partition(" ") for line in lines]
    named = [(folder, name.strip()) for folder, _, name in pairs if name.strip()]
    words = dict(named)
    if len(words) < len(named):
        twice, _ = Counter(folder for folder, _ in named).most_common(1)[0]
        raise UserError(
            str(path), f"the folder '{twice}' has two names", allowed=allowed, remedy="remove one"
        )
    missing = [folder for folder in folders if folder not in words]
    if missing:
        raise UserError(
            str(path),
            f"no name for the class folder '{missing[0]}'"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            allowed=allowed,
        )
    names = [words[folder] for folder in folders]
    check_label_names(names, str(path))
    return names
