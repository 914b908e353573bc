"""Tables of images and labels among a user's files: columns, splits, folders of the images."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from steps.command import UserError
from steps.data.sources.source import ARRAY_SUFFIXES, FILE, IMAGE_SUFFIXES, image_names, kind_of
from steps.data.sources.table import CELLS
from steps.params.dataset import CsvDataset
from steps.params.load import shortened
from workflow.places import folders_in, listed, place_of, split_in, split_of

LABELS = ("label", "class", "target", "diagnosis", "category", "species")
"""Names of label columns, the likeliest first."""
_IMAGES = ("image", "img", "file", "filename", "file_name", "filepath", "path", "image_path")
"""Names of image columns."""
_TRIED = 50
"""Lines of a table whose files are looked for, evenly spaced."""


class Columns(NamedTuple):
    """Columns of a table that the user names."""

    labels: Sequence[str] = ()
    image: str | None = None


@dataclass(frozen=True)
class TableFiles:
    """A set of images that a table names, or a table for each split."""

    params: dict[str, Any]
    words: str
    notes: tuple[str, ...]


def _delimiter(path: Path) -> str:
    """The delimiter of a table: the one that its first line has most often."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"unreadable ({error})", allowed="UTF-8 text") from error
    return max(",;\t|", key=first.count)


def rows_of(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and lines of a table.

    Raises:
        UserError: it is unreadable, or has no line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=_delimiter(path))
            rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
            columns = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise UserError(str(path), f"unreadable ({error})", allowed="UTF-8 text") from error
    if not rows:
        raise UserError(str(path), "no line below the column names", allowed="a line per image")
    return columns, rows


def names_images(path: Path, folders: Sequence[Path], columns: Columns) -> bool:
    """True if a table, or its first line, names image files that exist."""
    try:
        known, rows = rows_of(path)
    except UserError:  # no text, or empty: some other file
        return False
    places = _places(path, folders)
    return bool(_found(known, rows, places, columns.image) or _first(known, places))


def _found(
    columns: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    folders: Sequence[Path],
    chosen: str | None,
) -> dict[str, dict[Path, list[str]]]:
    """Image files that a few lines of each column name, by the folder that they lie below.

    Args:
        columns: of the table.
        rows: its lines.
        folders: that may hold its images.
        chosen: the one column that is looked at; its names need no ending of images.
    """
    tried = rows[:: max(1, len(rows) // _TRIED)]
    found: dict[str, dict[Path, list[str]]] = {}
    for column in [chosen] if chosen is not None else columns:
        names = [row.get(column, "") for row in tried]
        names = [name for name in names if chosen is not None or _like_image(name)]
        for folder in folders if any(names) else ():
            there = [name for name in names if kind_of(folder / name) == FILE]
            if there:
                found.setdefault(column, {})[folder] = there
    return found


def _places(path: Path, folders: Sequence[Path]) -> list[Path]:
    """Folders that the names of a table may start from, the likeliest first."""
    return [*dict.fromkeys([path.parent, *folders_in(path.parent), *folders])]


def _like_image(name: str) -> bool:
    return PurePath(name).suffix.lower() in (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)


def _first(columns: Sequence[str], folders: Sequence[Path]) -> str | None:
    """The image that the line of the column names names."""
    images = [name for name in columns if _like_image(name)]
    return next((name for name in images if any(kind_of(f / name) == FILE for f in folders)), None)


def _image_column(
    path: Path, folders: Sequence[Path], columns: Columns
) -> tuple[str, dict[Path, list[str]]]:
    """The column of the images, and what it names in each folder.

    Raises:
        UserError: there is none, or it is not clear which one it is.
    """
    known, rows = rows_of(path)
    places = _places(path, folders)
    if columns.image is not None and columns.image not in known:
        raise UserError(
            str(path),
            f"no column {columns.image!r} for the images",
            allowed=", ".join(known),
            remedy="name the column of the images with --image-column",
        )
    if (first := _first(known, places)) is not None:
        raise UserError(
            str(path),
            f"its first line names an image, {first}, and no columns",
            allowed="a first line with the names of the columns, such as image,label",
            remedy="add that line",
        )
    found = _found(known, rows, places, columns.image)
    if not found:
        raise UserError(
            str(path),
            f"no column names image files, among {', '.join(known)}",
            allowed="a column of paths from the table's folder, or from a folder beside it; "
            f"an image ends in {image_names()}",
            remedy="correct the paths, or name their column with --image-column",
        )
    named = [each for each in found if each.lower() in _IMAGES] if len(found) > 1 else [*found]
    if len(named) != 1:
        raise UserError(
            str(path),
            f"{len(found)} columns name image files: {', '.join(found)}",
            allowed=" or ".join(f"--image-column {each}" for each in found),
            remedy="add the option of the column that is meant",
        )
    return named[0], found[named[0]]


def _folder(path: Path, found: Mapping[Path, Sequence[str]]) -> Path:
    """The folder that most names of a table start from.

    Raises:
        UserError: several folders hold files of these names.
    """
    most = max(map(len, found.values()))
    best = [folder for folder, names in found.items() if len(names) == most]
    if path.parent in best:
        return path.parent
    split = split_of(path)
    best = [each for each in best if split and split_in(each.name) == split] or best
    name = found[best[0]][0]
    # Links, and names such as ../images/a.png, lead to one file from several folders.
    if len({os.path.realpath(each / name) for each in best}) > 1:
        raise UserError(
            str(path),
            f"its images, such as {name}, are in {' and in '.join(map(str, best))}",
            allowed="one folder around the table that holds them",
            remedy=f"write paths from the table's folder, such as "
            f"{os.path.relpath(best[0] / name, path.parent)}",
        )
    return best[0]


def _one_folder(tables: Mapping[str, Path], folders: Mapping[str, Path]) -> str | None:
    """The folder that the paths of all tables start from; None: each from its own.

    Raises:
        UserError: it is neither.
    """
    if all(folders[split] == table.parent for split, table in tables.items()):
        return None
    for split, folder in folders.items():
        if folder != folders["train"]:
            raise UserError(
                str(tables[split]),
                f"its images are in {folder}, and those of {tables['train'].name} in "
                f"{folders['train']}",
                allowed="one folder that the paths of both tables start from, or each table in the "
                "folder of its images",
                remedy="move each table into the folder of its images",
            )
    return place_of(folders["train"])


def read_tables(files: Sequence[Path], folders: Sequence[Path], named: Columns) -> TableFiles:
    """The set of a table, or of one for each split.

    Args:
        files: the tables.
        folders: that may hold their images, besides those around them.
        named: columns that the user names.

    Raises:
        UserError: it is not clear which table, column or folder is meant, or there is none.
    """
    splits = {split_of(file): file for file in files}
    if len(files) == 1:
        splits = {"train": files[0]}
    elif len(splits) < len(files) or None in splits or "train" not in splits:
        raise UserError(
            str(files[0].parent),
            f"{len(files)} tables: {listed(files)}",
            allowed="one table, or one whose name has train and one whose name has val",
            remedy="give the tables that are meant as PATH, or use --format images",
        )
    tables: dict[str, Path] = {
        split: splits[split] for split in ("train", "val") if split in splits
    }
    path, label_columns = tables["train"], named.labels
    columns, rows = rows_of(path)
    image, found = _image_column(path, folders, named)
    starts = {"train": _folder(path, found)}
    if "val" in tables:
        _, found = _image_column(tables["val"], folders, named._replace(image=image))
        starts["val"] = _folder(tables["val"], found)
    for name in label_columns:
        if name not in columns:
            raise UserError(
                f"--label-column {name}", f"no such column in {path}", allowed=", ".join(columns)
            )
    others = [each for each in columns if each != image]
    # A column with a value of its own in each line is a name or a measurement, and no class.
    values = {name: {row.get(name, "") for row in rows} - {""} for name in others}
    candidates = [
        each
        for each in others
        if 1 < len(values[each]) <= len(rows) / 2 or _several(values[each]) is not None
    ]
    candidates = candidates or [each for each in others if _measured(values[each])]
    if len(label_columns) > 1:
        read, (target, told, said) = list(label_columns), _flags(label_columns, values)
    else:
        unlabelled = "give the images without the table, to pretrain on them"
        label, *_ = label_columns or [label_column(str(path), candidates, columns, unlabelled)]
        read, (target, told, said) = [label], _target(label, values.get(label, {""}))
    params: dict[str, Any] = {"format": "csv"}
    params |= {split: place_of(table) for split, table in tables.items()}
    params |= {"image_column": image, **target}
    if (images := _one_folder(tables, starts)) is not None:
        params["images"] = images
    if (delimiter := _delimiter(path)) != CsvDataset.model_fields["delimiter"].default:
        params["delimiter"] = delimiter
    rest = [each for each in others if each not in read]
    notes = (f"Columns that are not read: {', '.join(rest)}.",) if rest else ()
    return TableFiles(params, f"a table of {len(rows):,} images with {told}", notes + said)


_Target = tuple[dict[str, Any], str, tuple[str, ...]]
"""Params of what is predicted, the same in words, and notes."""


def _flags(columns: Sequence[str], values: Mapping[str, set[str]]) -> _Target:
    """Target of columns of 0 and 1, each of which is a label that some images have."""
    for name in columns:
        if others := sorted(values.get(name, {""}) - {*CELLS}):
            raise UserError(
                f"--label-column {name}",
                f"one of {len(columns)} columns, and its cells hold {shortened(', '.join(others))}",
                allowed="0 and 1 where there are several columns, each a label",
                remedy="correct the cells; a dataset's params can also say what others count as "
                "(label_cells)",
            )
    return {"label_columns": list(columns)}, f"several labels each, {', '.join(columns)}", ()


def _target(label: str, cells: set[str]) -> _Target:
    """Target of a label column by its cells."""
    if (separator := _several(cells)) is not None:
        params: dict[str, Any] = {"label_column": label, "label_separator": separator}
        if none := sorted(cell for cell in cells if cell.lower() in _NONE):
            params["no_label"] = none[0]
        told = f"several labels each, in {label}"
        return params, told, (f"A cell with {separator} holds several labels.",)
    if _measured(cells):
        note = "Its cells are no whole numbers, so they are predicted by regression."
        return {"number_column": label}, f"a number each, {label}", (note,)
    told = f"{label} as the label"
    if len(cells) > _MANY_CLASSES and all(cell.isdecimal() for cell in cells):
        note = (
            f"The {len(cells):,} whole numbers of {label} are read as classes: if they are a "
            f"number to predict, replace label_column by number_column: {label}."
        )
        return {"label_column": label}, told, (note,)
    return {"label_column": label}, told, ()


def _several(cells: set[str]) -> str | None:
    """The separator of labels in cells of several; None where each is one label."""
    return next((each for each in "|;" if any(each in cell for cell in cells)), None)


def _measured(cells: set[str]) -> bool:
    """True of cells that are numbers or missing, and not all of them whole."""
    try:
        numbers = [float(cell) for cell in cells if cell.lower() not in _MISSING]
    except ValueError:
        return False
    finite = all(map(math.isfinite, numbers))
    return finite and not all(number.is_integer() for number in numbers)


_NONE = ("no finding", "no findings", "no label", "none")
"""Cells that say that an image has none of several labels."""
_MISSING = ("na", "n/a", "nan", "null", "none")
"""Cells that say that a number is missing."""
_MANY_CLASSES = 20
"""Whole numbers in a column of labels from which they may be no classes."""


def label_column(
    where: str, candidates: Sequence[str], columns: Sequence[str], unlabelled: str
) -> str:
    """The column of the labels.

    Args:
        where: the file, for errors.
        candidates: columns that can be it.
        columns: all of them.
        unlabelled: the remedy where there are no labels.

    Raises:
        UserError: it is not clear which one it is.
    """
    named = [name for word in LABELS for name in candidates if name.lower() == word]
    if len(candidates) == 1 or len(named) == 1:
        return (named or list(candidates))[0]
    found = "several columns that may be the label" if candidates else "no column of labels"
    raise UserError(
        where,
        f"{found}, among {', '.join(columns)}",
        allowed=" or ".join(f"--label-column {name}" for name in candidates) or "a label per image",
        remedy="name the column of the labels, or several columns of 0 and 1 that are labels each"
        if candidates
        else unlabelled,
    )
