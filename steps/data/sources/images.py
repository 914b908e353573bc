"""Images without labels: folders of any depth, lists of files, and tar files."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath

from steps.command import UserError
from steps.data.sources.folder import walk
from steps.data.sources.source import (
    ABSENT,
    FILE,
    FOLDER,
    Item,
    Problem,
    Source,
    data_root,
    existing_files,
    existing_folder,
    given,
    image_names,
    kind_of,
    short_names,
    suffixes,
)
from steps.data.sources.webdataset import members
from steps.params.dataset import ImagesDataset

_CONTENT = "a folder of images, a .txt list of image files, or tar files of images"
_LIST, _TAR = ".txt", ".tar"


@dataclass(frozen=True)
class _Found:
    name: str
    read: Callable[[], bytes]
    problem: str | None = None


class ImagesSource(Source):
    """Every image of the places that the params give, in the order of their names.

    Ids are paths within a place; with several places, behind the place's own name. Files that are
    no images by their names are passed over and counted; hidden ones are not looked at.
    """

    kind = "images"

    def __init__(self, dataset: ImagesDataset) -> None:
        self.classes = []
        self._suffixes = suffixes(dataset)
        self._left_out: dict[str, Counter[str]] = {}
        self._problems: dict[str, list[Problem]] = {}
        self._found = {split: self._list(split, place) for split, place in given(dataset).items()}

    def names(self, split: str) -> list[str]:
        return [found.name for found in self._found[split]]

    def labels(self, split: str) -> list[None]:
        return [None] * len(self._found[split])

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        for index in keep:
            found = self._found[split][index]
            yield Item(found.name, found.read, problem=found.problem)

    def problems(self, split: str) -> list[Problem]:
        return self._problems[split]

    def left_out(self, split: str) -> Mapping[str, int]:
        return self._left_out[split]

    def _list(self, split: str, places: str | list[str]) -> list[_Found]:
        self._left_out[split], self._problems[split] = Counter(), []
        places = [places] if isinstance(places, str) else places
        found = []
        for place in places:
            own = self._in_place(split, place)
            if not own:
                others = dict(self._left_out[split])
                raise UserError(
                    str(data_root() / place),
                    f"no image{f', other files: {others}' if others else ''}",
                    allowed=f"{_CONTENT}; an image ends in {image_names(self._suffixes)}",
                )
            if len(places) > 1:
                own = [_Found(f"{place}/{one.name}", one.read, one.problem) for one in own]
            found += own
        return found

    def _in_place(self, split: str, place: str) -> list[_Found]:
        path = data_root() / place
        if kind_of(path) == FOLDER:
            return self._in_folder(split, existing_folder(place, _CONTENT))
        if path.suffix.lower() == _LIST and kind_of(path) == FILE:
            return _in_list(path)
        # The name of a file may hold what stands for others in a glob.
        files = [path] if kind_of(path) == FILE else existing_files(place, _CONTENT)
        for file in files:
            if file.suffix.lower() != _TAR:
                raise UserError(
                    str(file), "neither a folder, a list nor a tar file", allowed=_CONTENT
                )
        return [
            found
            for file, name in short_names(files).items()
            for found in self._in_tar(split, file, name)
        ]

    def _in_folder(self, split: str, root: Path) -> list[_Found]:
        found = []
        for name, problem in walk(root):
            if problem is not None:
                self._problems[split].append(Problem(split, name, problem))
            elif self._is_image(split, name):
                found.append(_Found(name, (root / name).read_bytes))
        return found

    def _in_tar(self, split: str, path: Path, name: str) -> Iterator[_Found]:
        try:
            with path.open("rb") as file:
                for member, _ in members(file):
                    hidden = PurePosixPath(member.name).name.startswith(".")
                    if member.isfile() and not hidden and self._is_image(split, member.name):
                        # A sparse member's size is what its header claims, not what it takes.
                        problem = "a sparse file in its archive" if member.issparse() else None
                        place = (path, member.offset_data, member.size)
                        yield _Found(f"{name}/{member.name}", partial(_part, *place), problem)
        except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
            raise UserError(
                str(path),
                f"not readable as an uncompressed tar file ({error})",
                remedy="fetch the file again, whole, or unpack it",
            ) from error

    def _is_image(self, split: str, name: str) -> bool:
        suffix = PurePath(name).suffix.lower()
        if suffix in self._suffixes:
            return True
        self._left_out[split][suffix or "without an ending"] += 1
        return False


def _in_list(path: Path) -> list[_Found]:
    """The files that a list names, from its own folder; empty lines and those of ``#`` are passed
    over."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"unreadable ({error})", allowed="UTF-8 text") from error
    names = [line.strip() for line in lines]
    return [
        _Found(name, (path.parent / name).read_bytes, missing(path.parent / name))
        for name in names
        if name and not name.startswith("#")
    ]


def missing(path: Path) -> str | None:
    """Fault of a path that should be an image file; None: it is one."""
    kind = kind_of(path)
    if kind == FILE:
        return None
    return "no such file" if kind == ABSENT else f"{kind}, not a file"


def _part(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
