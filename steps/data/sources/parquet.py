"""Parquet files as Hugging Face datasets writes them: image bytes, labels of integers or text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.command import UserError
from steps.data.names import check_label_names
from steps.data.sources.source import (
    Item,
    Source,
    existing_files,
    given,
    numbered_classes,
    short_names,
    written_classes,
)
from steps.data.values import shown
from steps.params.dataset import ParquetDataset

_ROWS_AT_ONCE = 256
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError)
"""Errors that pyarrow raises for a file that is not as it should be."""


class ParquetSource(Source):
    """A column of images (struct {bytes, path}, or bytes) and one of labels, captions, or both.

    Ids are the file's name and the row in it.
    """

    def __init__(self, dataset: ParquetDataset) -> None:
        self._dataset = dataset
        self._columns = [
            name
            for name in (dataset.image_column, dataset.label_column, dataset.caption_column)
            if name is not None
        ]
        content = f"parquet files with the columns {', '.join(self._columns)}"
        self._files = {
            split: short_names(existing_files(pattern, content))
            for split, pattern in given(dataset).items()
        }
        for path in [path for files in self._files.values() for path in files]:
            self._check_columns(path)
        self._number: dict[str, int] | None = None
        """Numbers of labels that are text."""
        self.kind = "classification" if dataset.label_column else "captions"
        self.has_captions = dataset.caption_column is not None
        read = {split: self._read_labels(split) for split in self._files}
        self.classes = self._class_names(read["train"]) if dataset.label_column else []
        if self._has_text(next(iter(self._files["train"]))):
            self._number = {name: number for number, name in enumerate(self.classes)}
        self._labels = {split: [*map(self._numbered, labels)] for split, labels in read.items()}

    def names(self, split: str) -> list[str]:
        return [
            f"{name}/{row}"
            for path, name in self._files[split].items()
            for row in range(_open(path).metadata.num_rows)
        ]

    def labels(self, split: str) -> Sequence[int | None]:
        return self._labels[split]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        wanted = iter(keep)
        position = next(wanted, None)
        start = 0
        for path, name in self._files[split].items():
            file = _open(path)
            first = start
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if position is not None and position < end:
                    for row, values in self._rows(file, path, group, start):
                        if row == position:
                            yield self._item(f"{name}/{row - first}", values)
                            position = next(wanted, None)
                    if position is not None and position < end:
                        raise _unreadable(path, f"fewer rows than the {end - first} it states")
                start = end

    def _rows(
        self, file: Any, path: Path, group: int, start: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        names = self._columns
        try:
            batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=names)
            for batch in batches:
                columns = [batch.column(batch.schema.get_field_index(name)) for name in names]
                for row in range(batch.num_rows):
                    yield start + row, {n: c[row] for n, c in zip(names, columns, strict=True)}
                start += batch.num_rows
        except _DAMAGE as error:
            raise _unreadable(path, error) from error

    def _item(self, name: str, values: dict[str, Any]) -> Item:
        dataset = self._dataset
        image, problem = _value(values[dataset.image_column])
        found = image.get("bytes") if isinstance(image, dict) else image
        data: bytes = found if isinstance(found, bytes) else b""
        problem = problem or (None if data else "the row holds no image bytes")
        label = None
        if dataset.label_column is not None:
            written = values[dataset.label_column].as_py()
            label = self._numbered(written)
            if written is None:
                problem = problem or "the row holds no label"
            elif label is None:
                problem = problem or f"its label {shown(written)} is none of the classes"
        captions: tuple[str, ...] = ()
        if dataset.caption_column is not None:
            text, bad_caption = _value(values[dataset.caption_column])
            problem = problem or bad_caption
            captions = tuple(text if isinstance(text, list) else [text])
        return Item(name, lambda: data, label, captions, problem=problem)

    def _check_columns(self, path: Path) -> None:
        schema = _open(path).schema_arrow
        for name in self._columns:
            if name not in schema.names:
                raise UserError(
                    str(path),
                    f"no column '{name}'",
                    allowed=", ".join(schema.names),
                    remedy="name the column in the dataset's params",
                )
            if schema.names.count(name) > 1:
                raise UserError(
                    str(path), f"two columns are called '{name}'", remedy="rename one of them"
                )
        label = self._dataset.label_column
        if label is None or self._has_text(path):
            return
        if not pa.types.is_integer(schema.field(label).type):
            raise UserError(
                str(path),
                f"column '{label}' is {schema.field(label).type}",
                allowed="an integer type, as labels count from 0, or text",
            )

    def _has_text(self, path: Path) -> bool:
        """True if the labels of a file are text."""
        label = self._dataset.label_column
        return label is not None and is_text(_open(path).schema_arrow.field(label).type)

    def _numbered(self, label: int | str | None) -> int | None:
        """The number of a label; None: there is none, or it is none of the classes."""
        if self._number is None:
            return label if isinstance(label, int) else None
        return self._number.get(label) if isinstance(label, str) else None

    def _read_labels(self, split: str) -> list[int | str | None]:
        column = self._dataset.label_column
        labels: list[int | str | None] = []
        for path in self._files[split]:
            if column is None:
                labels += [None] * _open(path).metadata.num_rows
                continue
            file = _open(path)
            try:
                found = file.read([column]).column(column).to_pylist()
            except _DAMAGE as error:
                raise _unreadable(path, error) from error
            if len(found) != file.metadata.num_rows:
                raise _unreadable(path, f"{len(found)} labels for {file.metadata.num_rows} rows")
            labels += found
        return labels

    def _class_names(self, labels: Sequence[int | str | None]) -> list[str]:
        names, path = self._dataset.classes, next(iter(self._files["train"]))
        if names is None:
            names, path = self._stated_names() or (None, path)
        if names is None and (texts := {label for label in labels if isinstance(label, str)}):
            names = written_classes(texts)
        self.numbered = names is None
        if names is None:
            names = numbered_classes([label for label in labels if isinstance(label, int)])
        check_label_names(names, str(path))
        return list(names)

    def _stated_names(self) -> tuple[list[str], Path] | None:
        """The class names that the files' metadata give, and the first file that gives them.

        Raises:
            UserError: two files give other names, or in another order: their labels differ in
                what they mean.
        """
        first: tuple[list[str], Path] | None = None
        for path in [path for files in self._files.values() for path in files]:
            names = self._names_in_metadata(path)
            if names is None:
                continue
            if first is None:
                first = names, path
            elif names != first[0]:
                both = enumerate(zip_longest(names, first[0], fillvalue=""))
                label, (here, there) = next((i, two) for i, two in both if two[0] != two[1])
                raise UserError(
                    str(path),
                    f"its Hugging Face metadata call label {label} {shown(here)}, and those of "
                    f"{first[1]} call it {shown(there)}",
                    allowed="one list of names for all files of both splits",
                    remedy="write the files from one set; if the labels do mean the same, give "
                    "classes in the dataset's params",
                )
        return first

    def _names_in_metadata(self, path: Path) -> list[str] | None:
        """The class names that Hugging Face's metadata give; None: they give none.

        Raises:
            UserError: they are not readable, or no list of names.
        """
        text = (_open(path).schema_arrow.metadata or {}).get(b"huggingface")
        remedy = "write them anew, or give classes in the dataset's params"
        if text is None:
            return None
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            found = f"its Hugging Face metadata are not readable as JSON ({type(error).__name__})"
            raise UserError(str(path), found, remedy=remedy) from error
        for key in ("info", "features", self._dataset.label_column, "names"):
            if not isinstance(content, dict) or key not in content:
                return None
            content = content[key]
        if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
            found = f"its Hugging Face metadata name the classes {shown(content)}"
            raise UserError(str(path), found, allowed="a list of names", remedy=remedy)
        return content


def is_text(kind: pa.DataType) -> bool:
    """True of a column's type whose values are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _value(value: Any) -> tuple[Any, str | None]:
    """The Python value of a cell, and what is wrong with it."""
    try:
        return value.as_py(), None
    except UnicodeDecodeError:
        return None, "text that is not UTF-8"
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        return None, f"unreadable value ({error})"


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except _DAMAGE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: object) -> UserError:
    return UserError(
        str(path), f"not readable as parquet ({error})", remedy="fetch the file again, whole"
    )
