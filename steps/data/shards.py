"""A split of a prepared dataset: one Arrow file of encoded images, written once, memory-mapped.

Columns: ``id`` string, ``image`` large_binary (the encoded file as found: JPEG, PNG, WebP...; a
PNG of its own where it was turned upright or put on a ground; of other images than RGB of 8 bits
``steps.data.bands.pack``),
``width`` and ``height`` int32 in pixels, ``label`` int32 (only classification sets), ``labels`` (a
bool per class, of sets with several labels per image) or ``number`` float64 (of sets with a number
per image), ``mask`` large_binary (a grey PNG of class indices, 255 where unknown, of sets with
semantic masks), ``captions`` list<string> (where there are any), and an int32 for each factor that
drawn images are told by, such as ``colour``. The format is Arrow's IPC file, uncompressed, in
batches of :data:`BATCH_ROWS` rows, so that row ``i`` is found without reading the rows before it.

``<split>.crc32`` beside it holds uint32 checksums in little endian: of each row's encoded image,
then of all bytes of the file but the images. A reader compares the last when it opens the file, and
an image's when it reads it; sets that were prepared before there were any are read without.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from steps.artifacts.manifest import ANEW
from steps.command import UserError
from steps.data.bands import Array, is_packed, unpack
from steps.data.decoding import stored_pixels
from steps.params.sets import Target

BATCH_ROWS = 1024
SPLITS = ("train", "val")
CHECKSUMS = ".crc32"
DAMAGED = "damaged: not the bytes that prepare wrote"


class ShardWriter:
    """Write the rows of one split in order, holding one batch in memory.

    Args:
        path: the Arrow file to write.
        labels: whether each row has a label.
        captions: whether each row has captions.
        factors: names of integers that each row has beside.
        classes: number of classes of which a row may have several; 0: it is no such set.
        numbers: whether each row has a number.
        masks: whether each row has a semantic mask.
    """

    def __init__(
        self,
        path: Path,
        *,
        labels: bool,
        captions: bool,
        factors: Sequence[str] = (),
        classes: int = 0,
        numbers: bool = False,
        masks: bool = False,
    ) -> None:
        fields = [
            pa.field("id", pa.string(), nullable=False),
            pa.field("image", pa.large_binary(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
        ]
        if labels:
            fields.append(pa.field("label", pa.int32(), nullable=False))
        if classes:
            fields.append(pa.field("labels", pa.list_(pa.bool_(), classes), nullable=False))
        if numbers:
            fields.append(pa.field("number", pa.float64(), nullable=False))
        if masks:
            fields.append(pa.field("mask", pa.large_binary(), nullable=False))
        self._classes = classes
        if captions:
            fields.append(pa.field("captions", pa.list_(pa.string()), nullable=False))
        fields += [pa.field(name, pa.int32(), nullable=False) for name in factors]
        self._schema = pa.schema(fields)
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._path = path
        self._checksums: list[int] = []
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)

    def add(
        self,
        id: str,
        image: bytes,
        width: int,
        height: int,
        label: int | None = None,
        captions: Sequence[str] | None = None,
        factors: Mapping[str, int] | None = None,
        labels: Sequence[int] | None = None,
        number: float | None = None,
        mask: bytes | None = None,
    ) -> None:
        """Append a row. ``label`` and all that follow are for files that have them."""
        self._checksums.append(zlib.crc32(image))
        row: dict[str, Any] = {"id": id, "image": image, "width": width, "height": height}
        row |= {"label": label, "captions": captions, "number": number, "mask": mask}
        row |= factors or {}
        if labels is not None:
            row["labels"] = [index in labels for index in range(self._classes)]
        for name, column in self._columns.items():
            column.append(row[name])
        if len(self._columns["id"]) == BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left and the file's footer, without which the file cannot be opened, and
        the checksums."""
        self._flush()
        self._writer.close()
        self._file.close()
        sums = np.array([*self._checksums, _checksum(*_mapped(self._path)[::2])], "<u4")
        self._path.with_suffix(CHECKSUMS).write_bytes(sums.tobytes())

    def _flush(self) -> None:
        if self._columns["id"]:
            self._writer.write_batch(pa.record_batch(self._columns, schema=self._schema))
            self._columns = {name: [] for name in self._schema.names}

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._file.close()


class Images:
    """Random access to a split of a prepared dataset. Cheap to pickle: a copy maps the file again.

    Args:
        dataset: folder of an artifact of the step ``prepare``.
        split: ``train`` or ``val``.

    Raises:
        UserError: there is no such split, or its file is not a whole Arrow file; or, when a row is
            read, its bytes are not those that were written.
    """

    def __init__(self, dataset: Path, split: str) -> None:
        self.dataset = Path(dataset)
        self.split = split
        self.path = self.dataset / f"{split}.arrow"
        self._open()

    def _open(self) -> None:
        if not self.path.is_file():
            raise UserError(
                str(self.path),
                "no such file",
                allowed=" or ".join(f"{split}.arrow" for split in SPLITS),
                remedy="make the dataset: python -m steps.prepare",
            )
        try:
            whole, self._schema, self._batches = _mapped(self.path)
            damaged = not self._is_whole(whole)
        except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
            raise UserError(
                str(self.path), f"not a whole Arrow file ({error})", remedy=ANEW
            ) from error
        if damaged:
            raise UserError(str(self.path), DAMAGED, remedy=ANEW)
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def _is_whole(self, whole: Any) -> bool:
        """True if all but the images is as it was written; keeps the checksums of the images."""
        sums = self.path.with_suffix(CHECKSUMS)
        self._checksums = np.fromfile(sums, "<u4") if sums.is_file() else None
        if self._checksums is None:
            return True
        rows = sum(batch.num_rows for batch in self._batches)
        return len(self._checksums) == rows + 1 and bool(
            self._checksums[-1] == _checksum(whole, self._batches)
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "split": self.split, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def encoded(self, index: int) -> bytes:
        """The encoded image file of row ``index``."""
        data: bytes = self._value("image", index)
        if self._checksums is not None and zlib.crc32(data) != self._checksums[index]:
            raise self._damaged(index)
        return data

    def image(self, index: int) -> Image.Image:
        """The decoded image of row ``index``, RGB.

        Raises:
            UserError: the set has other channels or bits.
        """
        pixels = self.pixels(index)
        if isinstance(pixels, Image.Image):
            return pixels
        raise UserError(
            str(self.dataset),
            f"images of {len(pixels)} channels of {8 * pixels.itemsize} bits",
            allowed="three channels of 8 bits",
        )

    def pixels(self, index: int) -> Image.Image | Array:
        """The decoded image of row ``index``: RGB, or of a set of other channels or bits an array
        (C, H, W), uint8 or uint16."""
        data = self.encoded(index)
        try:
            return unpack(data) if is_packed(data) else stored_pixels(data)
        except Exception as error:  # Pillow raises a dozen kinds for a file that it cannot read
            raise self._damaged(index) from error

    def mask(self, index: int) -> bytes:
        """The encoded semantic mask of row ``index``, of a set that has them."""
        data: bytes = self._value("mask", index)
        return data

    def captions(self, index: int) -> list[str]:
        """The captions of row ``index``; empty where the dataset has none."""
        if not self.has_captions:
            return []
        return list(self._value("captions", index))

    def all_captions(self) -> Iterator[list[str]]:
        """The captions of every row, in order; nothing where the dataset has none."""
        if self.has_captions:
            for batch in self._batches:
                yield from batch.column("captions").to_pylist()

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row."""
        return [name for batch in self._batches for name in batch.column("id").to_pylist()]

    @property
    def has_captions(self) -> bool:
        """True if the dataset has captions for each image."""
        return "captions" in self._schema.names

    @property
    def has_labels(self) -> bool:
        """True if the dataset has a label for each image."""
        return "label" in self._schema.names

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """The class index of each row, ``(N,)``.

        Raises:
            UserError: the dataset has no labels (a detection or caption set).
        """
        if not self.has_labels:
            raise UserError(
                str(self.path),
                "a dataset without a label for each image",
                allowed="a classification dataset",
            )
        return self._integers("label")

    @property
    def target(self) -> Target | None:
        """Target of a probe on the set; None: it has no labels."""
        columns: dict[str, Target] = {"label": "class", "labels": "classes", "number": "number"}
        known = [target for name, target in columns.items() if name in self._schema.names]
        return known[0] if known else None

    @cached_property
    def targets(self) -> npt.NDArray[Any]:
        """Targets of each row: class indices (N,) int64, for several labels per image 1 and 0
        per class (N, C) float32, or numbers (N,) float64.

        Raises:
            UserError: there is none.
        """
        if self.target == "classes":
            kind = self._schema.field("labels").type
            flat = [batch.column("labels").flatten() for batch in self._batches]
            rows = [part.to_numpy(zero_copy_only=False) for part in flat]
            joined = np.concatenate([np.empty(0, bool), *rows]).astype(np.float32)
            return joined.reshape(-1, kind.list_size)
        if self.target == "number":
            numbers = [batch.column("number").to_numpy() for batch in self._batches]
            return np.concatenate([np.empty(0), *numbers])
        return self.labels

    def factor(self, name: str) -> npt.NDArray[np.int64]:
        """A factor that the images were drawn by, ``(N,)``: indices into its values.

        Raises:
            UserError: the set does not tell it.
        """
        if name not in self._schema.names:
            raise UserError(
                str(self.path),
                f"does not tell the {name.replace('_', ' ')} of each image",
                allowed="a drawn set (format shapes) with cues or conflicts",
            )
        return self._integers(name)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Width and height of each image in pixels, ``(N, 2)``."""
        return np.stack([self._integers("width"), self._integers("height")], axis=1)

    def _integers(self, column: str) -> npt.NDArray[np.int64]:
        arrays = [batch.column(column).to_numpy() for batch in self._batches]
        return np.concatenate([np.empty(0, np.int64), *arrays]).astype(np.int64)

    def _value(self, column: str, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} in {self.path}")
        batch = bisect_right(self._ends, index)
        row = index - (self._ends[batch - 1] if batch else 0)
        return self._batches[batch].column(column)[row].as_py()

    def _damaged(self, index: int) -> UserError:
        where = f"{self.path}: image {index} ({self._value('id', index)})"
        return UserError(where, DAMAGED, remedy=ANEW)


def _mapped(path: Path) -> tuple[Any, Any, list[Any]]:
    """A file's bytes, its schema and its batches, views of one mapping: no image is read."""
    mapped = pa.memory_map(str(path))
    reader = pa.ipc.open_file(mapped)
    batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    mapped.seek(0)
    return mapped.read_buffer(), reader.schema, batches


def _checksum(whole: Any, batches: Sequence[Any]) -> int:
    """Checksum of all bytes of a mapped file but the encoded images."""
    view, found, position = memoryview(whole), 0, 0
    for batch in batches:
        images = batch.column("image").buffers()[2]
        start = images.address - whole.address
        found = zlib.crc32(view[position:start], found)
        position = start + images.size
    return zlib.crc32(view[position:], found)
