"""Decisions of an evaluation, one row per image: a Parquet file beside the record.

The schema's metadata names the ``kind`` of a file:

- ``classes``: ``id``, ``label``, ``top`` (at most five class indices, best first) and ``margin``
  (the best score less the second best);
- ``labels``: ``id``, ``labels`` (the class indices that the image has) and ``scores`` (one per
  class);
- ``numbers``: ``id``, the true ``number`` and the ``predicted`` one;
- ``values``: ``id``, and a column per metric whose mean is the record's value; a null does not
  count. Where a metric asks about captions there is a row per caption;
- ``confusion``: ``id``, and the pixels of each true and predicted class, row by row;
- ``detections``: one row per detection: ``image_id``, ``category``, ``score``, ``box`` (x, y, width
  and height in pixels) and, of a detector with masks, ``mask`` (COCO's run lengths).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from steps.artifacts.manifest import digest_file
from steps.command import UserError

TOP = 5
"""Most classes kept per image."""
_ID = pa.field("id", pa.string(), nullable=False)
_SCHEMAS = {
    "classes": (
        _ID,
        pa.field("label", pa.int32(), nullable=False),
        pa.field("top", pa.list_(pa.int32()), nullable=False),
        pa.field("margin", pa.float32(), nullable=False),
    ),
    "labels": (
        _ID,
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
    ),
    "numbers": (
        _ID,
        pa.field("number", pa.float64(), nullable=False),
        pa.field("predicted", pa.float64(), nullable=False),
    ),
    "values": (_ID,),
    "confusion": (_ID, pa.field("confusion", pa.list_(pa.int64()), nullable=False)),
    "detections": (
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("category", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("box", pa.list_(pa.float32()), nullable=False),
    ),
}
"""Columns of each kind; ``values`` has one more per metric, ``detections`` may have masks."""
_MASK = pa.field("mask", pa.string(), nullable=False)


class Decisions(NamedTuple):
    """Decisions of an evaluation: their kind, and a pyarrow table."""

    kind: str
    table: Any

    def encoded(self) -> bytes:
        """Bytes of the file, equal for equal decisions."""
        file = io.BytesIO()
        table = self.table.replace_schema_metadata({"kind": self.kind})
        parquet.write_table(table, file, compression="zstd")
        return file.getvalue()


def of_classes(
    ids: Sequence[str],
    labels: npt.NDArray[np.int64],
    top: npt.NDArray[np.int64],
    margin: npt.NDArray[np.float32],
) -> Decisions:
    """Decisions of a classifier.

    Args:
        ids: N.
        labels: (N,).
        top: (N, K), best first.
        margin: (N,).
    """
    return _table("classes", [ids, labels.astype(np.int32), _lists(top, pa.int32()), margin])


def of_labels(
    ids: Sequence[str], labels: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]
) -> Decisions:
    """Decisions on images that have any number of labels.

    Args:
        ids: N.
        labels: (N, C), True where an image has a label.
        scores: (N, C).
    """
    indices = [np.flatnonzero(row).astype(np.int32) for row in labels]
    return _table("labels", [ids, indices, _lists(scores, pa.float32())])


def of_numbers(
    ids: Sequence[str], numbers: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]
) -> Decisions:
    """Numbers predicted for images.

    Args:
        ids: N.
        numbers: (N,), the truth.
        predicted: (N,).
    """
    return _table("numbers", [ids, numbers, predicted])


def of_values(ids: Sequence[str], columns: Mapping[str, Sequence[float | None]]) -> Decisions:
    """Values of metrics that are means over rows.

    Args:
        ids: the image of each row.
        columns: N values per metric, None where a row does not count.
    """
    fields = [pa.field(name, pa.float32()) for name in columns]
    return _table("values", [ids, *columns.values()], fields)


def of_confusion(ids: Sequence[str], counts: npt.NDArray[np.int64]) -> Decisions:
    """Pixels by true and predicted class.

    Args:
        ids: N.
        counts: (N, C, C), rows the truth.
    """
    return _table("confusion", [ids, _lists(counts.reshape(len(counts), -1), pa.int64())])


def of_detections(
    images: Sequence[int],
    categories: Sequence[int],
    scores: Sequence[float],
    boxes: npt.NDArray[np.float64],
    masks: Sequence[str] | None,
) -> Decisions:
    """Detections, in the order of images and of scores.

    Args:
        images: ids, one per detection.
        categories: ids.
        scores: confidences.
        boxes: (N, 4), x, y, width and height in pixels.
        masks: run lengths; None of a detector without masks.
    """
    columns = [images, categories, scores, _lists(boxes, pa.float32())]
    if masks is None:
        return _table("detections", columns)
    return _table("detections", [*columns, masks], [_MASK])


def _table(kind: str, columns: Sequence[Any], further: Sequence[Any] = ()) -> Decisions:
    fields = [*_SCHEMAS[kind], *further]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, fields, strict=True)
    ]
    return Decisions(kind, pa.Table.from_arrays(arrays, schema=pa.schema(fields)))


def _lists(rows: npt.NDArray[Any], inner: Any) -> Any:
    """(N, K) as N lists of K."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(rows.ravel(), inner))


def read_decisions(path: Path, digest: str | None = None) -> Decisions:
    """Read a file of decisions.

    Args:
        path: the file.
        digest: expected, from the record beside it.

    Raises:
        UserError: the file is absent, not the record's, or not a file of decisions.
    """
    again = "run the step of the record beside it again"
    if not path.is_file():
        raise UserError(str(path), "missing, but its record needs it", remedy=again)
    if digest is not None and (found := digest_file(path)) != digest:
        raise UserError(
            str(path),
            f"decisions of the digest {found[:12]}, and the record beside it was made of "
            f"{digest[:12]}",
            remedy=again,
        )
    try:
        table = parquet.read_table(path, memory_map=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(str(path), "not a Parquet file of decisions", remedy=again) from error
    kind = (table.schema.metadata or {}).get(b"kind", b"").decode("utf-8", "replace")
    if not _fits(kind, table.schema):
        raise UserError(
            str(path),
            f"kind '{kind}' with the columns {', '.join(table.schema.names)}",
            allowed=f"decisions of one of the kinds {', '.join(_SCHEMAS)}",
            remedy=again,
        )
    return Decisions(kind, table)


def is_decisions(path: Path) -> bool:
    """True if the file holds decisions, of any record."""
    try:
        schema = parquet.read_schema(path)
    except (pa.ArrowException, OSError, ValueError):
        return False
    kind = (schema.metadata or {}).get(b"kind", b"").decode("utf-8", "replace")
    return _fits(kind, schema)


def _fits(kind: str, schema: Any) -> bool:
    """True if the columns are those of a kind."""
    if kind not in _SCHEMAS:
        return False
    needed, fields = _SCHEMAS[kind], list(schema)
    further = fields[len(needed) :]
    named = [(field.name, field.type) for field in fields[: len(needed)]]
    if named != [(field.name, field.type) for field in needed]:
        return False
    if kind == "values":
        return bool(further) and all(field.type == pa.float32() for field in further)
    if kind == "detections":
        return [(field.name, field.type) for field in further] in ([], [(_MASK.name, _MASK.type)])
    return not further
