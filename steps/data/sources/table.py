"""A table of images and their labels: CSV files with a line of column names."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from steps.command import UserError
from steps.data.names import check_label_names
from steps.data.sources.images import missing
from steps.data.sources.source import Item, Source, existing_file, existing_folder, given
from steps.params.dataset import CsvDataset

_ALLOWED = "UTF-8 text, a line of column names, then a line for each image"


class CsvSource(Source):
    """One image per line, in the order of the lines; ids are the paths as the table gives them."""

    kind = "classification"

    def __init__(self, dataset: CsvDataset) -> None:
        self._dataset = dataset
        self._tables = {
            split: existing_file(place, "a CSV file of images and labels")
            for split, place in given(dataset).items()
        }
        self._folder = None
        if dataset.images is not None:
            self._folder = existing_folder(dataset.images, "the images that the table names")
        self._rows = {split: self._read(path) for split, path in self._tables.items()}
        written = {label for _, label in self._rows["train"] if label}
        # Numbers in the order of numbers: 2 before 10.
        numeric = all(label.isdecimal() for label in written)
        self.classes = dataset.classes or sorted(written, key=int if numeric else None)
        if not self.classes:
            raise UserError(
                str(self._tables["train"]), f"no label in column {dataset.label_column!r}"
            )
        check_label_names(self.classes, str(self._tables["train"]))
        self._number = {label: number for number, label in enumerate(self.classes)}

    def names(self, split: str) -> list[str]:
        return [name for name, _ in self._rows[split]]

    def labels(self, split: str) -> list[int | None]:
        return [self._number.get(label) for _, label in self._rows[split]]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        table = self._tables[split]
        folder = self._folder or table.parent
        for index in keep:
            name, label = self._rows[split][index]
            path, number = folder / name, self._number.get(label)
            problem = missing(path) if name else f"line {index + 2} names no image"
            if problem is None and not label:
                problem = f"line {index + 2} of {table.name} has no label"
            if problem is None and number is None:
                problem = f"its label {label!r} is none of the classes"
            yield Item(name or f"line {index + 2}", path.read_bytes, number, problem=problem)

    def _read(self, path: Path) -> list[tuple[str, str]]:
        dataset = self._dataset
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, delimiter=dataset.delimiter, strict=True)
                columns = list(reader.fieldnames or [])
                for key, column in (
                    ("image_column", dataset.image_column),
                    ("label_column", dataset.label_column),
                ):
                    if columns.count(column) != 1:
                        found = "no column" if column not in columns else "two columns"
                        raise UserError(
                            str(path),
                            f"{found} {column!r}",
                            allowed=", ".join(columns) or _ALLOWED,
                            remedy=f"name the column in the dataset's params ({key}), or the "
                            "delimiter",
                        )
                return [
                    (
                        (row[dataset.image_column] or "").strip(),
                        (row[dataset.label_column] or "").strip(),
                    )
                    for row in reader
                ]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(str(path), f"unreadable ({error})", allowed=_ALLOWED) from error
