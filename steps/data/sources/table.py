"""A table of images with labels or numbers: CSV files with a line of column names."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steps.command import UserError
from steps.data.names import check_label_names
from steps.data.sources.images import missing
from steps.data.sources.source import (
    Item,
    Source,
    existing_file,
    existing_folder,
    given,
    written_classes,
)
from steps.data.values import shown
from steps.params.dataset import CsvDataset
from steps.params.sets import Kind, Target

_ALLOWED = "UTF-8 text, a line of column names, then a line for each image"
_KINDS: dict[Target, Kind] = {
    "class": "classification",
    "classes": "multilabel",
    "number": "regression",
}
CELLS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0}
"""Cells of ``label_columns`` that need no word in the params."""


class _Row(NamedTuple):
    """One line of a table: the image's path and the cells of the columns that are read."""

    name: str
    cells: tuple[str, ...]


class CsvSource(Source):
    """One image per line, in the order of the lines; ids are the paths as the table gives them."""

    def __init__(self, dataset: CsvDataset) -> None:
        self._dataset = dataset
        self.kind = _KINDS[dataset.target]
        self._tables = {
            split: existing_file(place, "a CSV file of images and labels")
            for split, place in given(dataset).items()
        }
        self._folder = None
        if dataset.images is not None:
            self._folder = existing_folder(dataset.images, "the images that the table names")
        self._rows = {split: self._read(path) for split, path in self._tables.items()}
        self.classes = self._classes()
        self._number = {label: number for number, label in enumerate(self.classes)}

    def names(self, split: str) -> list[str]:
        return [row.name for row in self._rows[split]]

    def labels(self, split: str) -> list[int | None]:
        if self.kind != "classification":
            return [None] * len(self._rows[split])
        return [self._number.get(row.cells[0]) for row in self._rows[split]]

    def classes_of(self, split: str) -> Sequence[Sequence[int]]:
        if self.kind != "multilabel":
            return super().classes_of(split)
        told = [self._told(row, "") for row in self._rows[split]]
        return [() if isinstance(each, str) else each["labels"] for each in told]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        table = self._tables[split]
        folder = self._folder or table.parent
        for index in keep:
            row, line = self._rows[split][index], index + 2
            path = folder / row.name
            problem = missing(path) if row.name else f"line {line} names no image"
            told = self._told(row, f"line {line} of {table.name}")
            if isinstance(told, str):
                problem, told = problem or told, {}
            yield Item(row.name or f"line {line}", path.read_bytes, problem=problem, **told)

    def _told(self, row: _Row, where: str) -> dict[str, Any] | str:
        """Contents of a line, as fields of an ``Item``, or what is wrong with it."""
        if self._dataset.number_column is not None:
            return _number(row.cells[0], where)
        if self._dataset.label_columns is not None:
            return self._marked(row, where)
        cell = row.cells[0]
        if self._dataset.label_separator is not None:
            labels = self._split(cell)
            if "" in labels:
                return f"{where} has {'an empty' if cell else 'no'} label"
        else:
            labels = [cell]
            if not cell:
                return f"{where} has no label"
        for label in labels:
            if label not in self._number:
                return f"its label {label!r} is none of the classes"
        numbers = [self._number[label] for label in labels]
        if self._dataset.label_separator is None:
            return {"label": numbers[0]}
        return {"labels": tuple(sorted({*numbers}))}

    def _marked(self, row: _Row, where: str) -> dict[str, Any] | str:
        """The labels whose columns are marked in a line."""
        cells = {**CELLS, **self._dataset.label_cells}
        for label, cell in zip(self.classes, row.cells, strict=True):
            if cell not in cells:
                found = shown(cell) if cell else "an empty cell"
                return (
                    f"{where} has {found} in column {label!r}, and not 1 or 0; say in label_cells "
                    "what it counts as"
                )
        marked = [index for index, cell in enumerate(row.cells) if cells[cell]]
        return {"labels": tuple(marked)}

    def _split(self, cell: str) -> list[str]:
        """The labels in a cell; [] of ``no_label``, and [""] of another empty cell."""
        if cell == self._dataset.no_label:
            return []
        return [label.strip() for label in cell.split(self._dataset.label_separator)]

    def _classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers; none of a set of numbers."""
        dataset, path = self._dataset, self._tables["train"]
        if dataset.number_column is not None:
            return []
        if dataset.label_columns is not None:
            classes = dataset.label_columns
        else:
            cells = {row.cells[0] for row in self._rows["train"]}
            written = cells
            if dataset.label_separator is not None:
                written = {label for cell in cells for label in self._split(cell)}
            written -= {""}
            classes = dataset.classes or written_classes(written)
            if not classes:
                raise UserError(str(path), f"no label in column {dataset.label_column!r}")
        check_label_names(classes, str(path))
        return classes

    def _read(self, path: Path) -> list[_Row]:
        dataset = self._dataset
        wanted = {"image_column": [dataset.image_column], **dataset.columns}
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, delimiter=dataset.delimiter, strict=True)
                columns = list(reader.fieldnames or [])
                for key, names in wanted.items():
                    for column in names:
                        _check_column(path, key, column, columns)
                (told,) = dataset.columns.values()
                return [
                    _Row(
                        (row[dataset.image_column] or "").strip(),
                        tuple((row[column] or "").strip() for column in told),
                    )
                    for row in reader
                ]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(str(path), f"unreadable ({error})", allowed=_ALLOWED) from error


def _check_column(path: Path, key: str, column: str, columns: Sequence[str]) -> None:
    """Check that a table has a column once; ``key`` of the params names it."""
    if columns.count(column) != 1:
        found = "no column" if column not in columns else "two columns"
        raise UserError(
            str(path),
            f"{found} {column!r}",
            allowed=", ".join(columns) or _ALLOWED,
            remedy=f"name the column in the dataset's params ({key}), or the delimiter",
        )


def _number(cell: str, where: str) -> dict[str, Any] | str:
    """A finite number, or what is wrong with the cell."""
    if not cell:
        return f"{where} has no number"
    try:
        number = float(cell)
    except ValueError:
        return f"{where} has {shown(cell)}, and not a number"
    return {"number": number} if math.isfinite(number) else f"{where} has {cell}, not finite"
