"""Paths that a user gives: which belong together, their splits, and how params name them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from steps.command import UserError
from steps.data.sources import data_root
from steps.data.sources.source import ABSENT, FILE, FOLDER, kind_of

READ = (
    "class folders, images, a .txt list, a .csv table, .parquet or .tar files, COCO's JSON with "
    "its images"
)
"""Everything that can be read, for errors."""
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names of splits in folders and files."""
_SHARDS = (".tar", ".parquet", ".json", ".csv", ".tsv")
"""Suffixes of files that belong together, wherever they lie."""


def place_of(path: Path) -> str:
    """A path as a dataset's params name it: below the data root, or absolute."""
    path, root = (Path(os.path.abspath(each)) for each in (path, data_root()))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def split_of(file: Path) -> str | None:
    """The split that a file's name shows, or else its folder's."""
    return split_in(file.stem) or split_in(file.parent.name)


def split_in(name: str) -> str | None:
    """The split that a name shows, such as train-00000-of-00002, instances_val2017, TRAIN."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((s for word in words for s, names in SPLITS.items() if word in names), None)


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted."""
    return sorted(each for each in folder.iterdir() if each.is_dir())


def listed(files: Sequence[Path], most: int = 5) -> str:
    """The names of the first few files."""
    return ", ".join(
        [*(file.name for file in files[:most]), *(["..."] if len(files) > most else [])]
    )


def grouped(paths: Sequence[str]) -> Iterator[list[Path]]:
    """Files that belong together, such as the shards of a set; each other path by itself.

    Raises:
        UserError: a path is absent, or no file or folder.
    """
    together: dict[str, list[Path]] = {}
    for text in paths:
        kind = kind_of(text)
        found = [Path(text)] if kind in (FILE, FOLDER) else []
        if kind == ABSENT and glob.has_magic(text):
            found = [Path(each) for each in sorted(glob.glob(text, recursive=True))]
        if not found:
            raise UserError(
                text or "PATH",
                "no such file or folder" if kind == ABSENT else f"{kind}, not a file or a folder",
                allowed=READ,
                remedy=f"give a path from {Path.cwd()}",
            )
        for each in found:
            path = Path(os.path.abspath(each))
            suffix = path.suffix.lower()
            if suffix in _SHARDS and path.is_file():
                together.setdefault(suffix, []).append(path)
            else:
                yield [path]
    yield from together.values()


def pattern_of(files: Sequence[Path]) -> str:
    """A glob that matches these files and no other, as params name it.

    Raises:
        UserError: there is none.
    """
    if len(files) == 1:
        return glob.escape(place_of(files[0]))
    folder = Path(os.path.commonpath([file.parent for file in files]))
    # cifar10-train-00000-of-00002.parquet: what stands before the number tells the split.
    signs = zip(*(file.stem for file in files), strict=False)
    same = takewhile(lambda here: len({*here}) == 1, signs)
    words = "".join(here[0] for here in same).rstrip("0123456789")
    prefix, suffix = glob.escape(words), files[0].suffix
    for tail in (f"{prefix}*{suffix}", f"*{suffix}", f"**/*{suffix}"):
        if sorted(folder.glob(tail)) == sorted(files):
            return f"{glob.escape(place_of(folder))}/{tail}"
    raise UserError(
        str(folder),
        f"no pattern matches these {len(files)} {suffix} files and no other",
        remedy="put them into a folder of their own",
    )
