"""Parquet files as Hugging Face datasets writes them: images as bytes, labels as integers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.command import UserError
from steps.data.sources.source import Item, Source, check_label_names, existing_files
from steps.params.dataset import ParquetDataset

_ROWS_AT_ONCE = 256


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
            "train": existing_files(dataset.train, content),
            "val": existing_files(dataset.val, content),
        }
        for path in self._files["train"] + self._files["val"]:
            self._check_columns(path)
        self.kind = "classification" if dataset.label_column else "captions"
        self.has_captions = dataset.caption_column is not None
        self._labels = {split: self._read_labels(split) for split in self._files}
        self.classes = self._class_names() if dataset.label_column else []

    def labels(self, split: str) -> Sequence[int | None]:
        return self._labels[split]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        wanted = iter(keep)
        position = next(wanted, None)
        start = 0
        for path in self._files[split]:
            file = _open(path)
            first = start
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if position is not None and position < end:
                    for row, values in self._rows(file, path, group, start):
                        if row == position:
                            yield self._item(f"{path.stem}/{row - first}", values)
                            position = next(wanted, None)
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
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error

    def _item(self, name: str, values: dict[str, Any]) -> Item:
        dataset = self._dataset
        image = values[dataset.image_column].as_py()
        found = image.get("bytes") if isinstance(image, dict) else image
        data: bytes = found if isinstance(found, bytes) else b""
        problem = None if data else "the row holds no image bytes"
        label = None
        if dataset.label_column is not None:
            label = values[dataset.label_column].as_py()
            problem = problem or ("the row holds no label" if label is None else None)
        captions: tuple[str, ...] = ()
        if dataset.caption_column is not None:
            text = values[dataset.caption_column].as_py()
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
        label = self._dataset.label_column
        if label is not None and not pa.types.is_integer(schema.field(label).type):
            raise UserError(
                str(path),
                f"column '{label}' is {schema.field(label).type}",
                allowed="an integer type: labels count from 0",
            )

    def _read_labels(self, split: str) -> list[int | None]:
        column = self._dataset.label_column
        labels: list[int | None] = []
        for path in self._files[split]:
            if column is None:
                labels += [None] * _open(path).metadata.num_rows
                continue
            try:
                labels += _open(path).read([column]).column(0).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(path, error) from error
        return labels

    def _class_names(self) -> list[str]:
        path = self._files["train"][0]
        names = self._dataset.classes or self._names_in_metadata(path)
        if names is None:
            known = [label for label in self._labels["train"] if label is not None]
            names = [str(label) for label in range(max(known, default=-1) + 1)]
        check_label_names(names, str(path))
        return list(names)

    def _names_in_metadata(self, path: Path) -> list[str] | None:
        metadata = _open(path).schema_arrow.metadata or {}
        try:
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            names = features[self._dataset.label_column]["names"]
        except (KeyError, TypeError, ValueError):
            return None
        return [str(name) for name in names]


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        str(path), f"not readable as parquet ({error})", remedy="fetch the file again, whole"
    )
