"""Tables of images and labels among a user's files: columns, splits, folders of the images."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.command import UserError
from steps.data.sources.source import FILE, kind_of
from steps.params.dataset import CsvDataset
from steps.params.load import shortened
from workflow.places import listed, place_of, split_of

_LABELS = ("label", "class", "target", "diagnosis", "category", "species")
"""Names of label columns, the likeliest first."""
_TRIED = 50
"""Lines of a table whose files are looked for."""


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


def image_columns(path: Path, folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """Columns that name image files, with the folder that they start from."""
    columns, rows = rows_of(path)
    return [
        (column, folder)
        for column in columns
        for folder in dict.fromkeys(folders)
        if any(
            row[column] and kind_of(folder / row[column]) == FILE
            for row in rows[:_TRIED]
            if column in row
        )
    ]


def read_tables(
    files: Sequence[Path], folders: Sequence[Path], label_columns: Sequence[str]
) -> TableFiles:
    """The reading of a table, or of one for each split, whose images lie in one of the folders."""
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
    path = splits["train"]
    columns, rows = rows_of(path)
    named = image_columns(path, folders)
    if not named:
        raise UserError(
            str(path),
            f"no column names image files, among {', '.join(columns)}",
            allowed="a column of paths from the table's folder, or from a folder beside it",
        )
    image, folder = named[0]
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
        label = label_columns[0] if label_columns else label_column(str(path), candidates, columns)
        read, (target, told, said) = [label], _target(label, values.get(label, {""}))
    params: dict[str, Any] = {"format": "csv", "train": place_of(path)}
    if "val" in splits:
        params["val"] = place_of(splits["val"])
    params |= {"image_column": image, **target}
    if any(file.parent != folder for file in splits.values()):
        params["images"] = place_of(folder)
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
        if others := sorted(values.get(name, {""}) - _FLAGS):
            raise UserError(
                f"--label-column {name}",
                f"one of {len(columns)} columns, and its cells hold {shortened(', '.join(others))}",
                allowed="0 and 1 where there are several columns, each a label",
                remedy="correct the cells; a dataset's params can also say what others count as "
                "(label_cells)",
            )
    return {"label_columns": list(columns)}, f"several labels each, {', '.join(columns)}", ()


_FLAGS = {"0", "1"}
"""Cells of columns that are labels of their own."""


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
    """True of cells that are numbers, not all of them whole."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return False
    finite = all(map(math.isfinite, numbers))
    return finite and not all(number.is_integer() for number in numbers)


_NONE = ("no finding", "no findings", "no label", "none")
"""Cells that say that an image has none of several labels."""
_MANY_CLASSES = 20
"""Whole numbers in a column of labels from which they may be no classes."""


def label_column(where: str, candidates: Sequence[str], columns: Sequence[str]) -> str:
    """The column of the labels.

    Raises:
        UserError: it is not clear which one it is.
    """
    named = [name for word in _LABELS for name in candidates if name.lower() == word]
    if len(candidates) == 1 or len(named) == 1:
        return (named or list(candidates))[0]
    found = "several columns that may be the label" if candidates else "no column of labels"
    raise UserError(
        where,
        f"{found}, among {', '.join(columns)}",
        allowed=" or ".join(f"--label-column {name}" for name in candidates) or "a label per image",
        remedy="name the column of the labels, or several columns of 0 and 1 that are labels each"
        if candidates
        else "give the images without the table, to pretrain on them",
    )
