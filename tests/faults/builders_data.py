"""Small inputs for trials of ``prepare``: image files of every kind, sets in every format."""

from __future__ import annotations

import io
import json
import shutil
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.data.shards import Images
from steps.prepare import prepare

Pixels = npt.NDArray[np.uint8]
WDS = {"format": "webdataset", "train": "t.tar", "val": "v.tar"}
PARQUET = {"format": "parquet", "train": "t.parquet", "val": "v.parquet"}
SKIP: dict[str, Any] = {"on_bad": "skip", "max_bad_share": 0.9}


def noise(seed: int = 0, width: int = 12, height: int = 10, channels: int = 3) -> Pixels:
    """Random pixels (H, W, channels): images of two seeds differ."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(pixels: Pixels | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image file that Pillow writes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.squeeze())
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(pixels: npt.NDArray[Any], colour: int) -> bytes:
    """A PNG as its specification has it, of 8 or 16 bits: Pillow writes few kinds of 16 bits.

    Args:
        pixels: (H, W, channels) uint8 or uint16.
        colour: 0 gray, 2 RGB, 4 gray and alpha, 6 RGBA.
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = pixels.shape[:2]
    depth = 8 * pixels.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{pixels.itemsize}").tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(
    pixels: npt.NDArray[Any], photometric: int, extra: Sequence[int] = (), sample_format: int = 1
) -> bytes:
    """An uncompressed TIFF as its specification has it, of any number of bands (H, W, bands)."""
    height, width, bands = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * pixels.itemsize] * bands),
        259: (3, [1]),
        262: (3, [photometric]),
        273: (4, [8]),
        277: (3, [bands]),
        278: (4, [height]),
        279: (4, [len(data)]),
        339: (3, [sample_format] * bands),
    }
    if extra:
        entries[338] = (3, extra)
    start = 8 + len(data) + len(data) % 2
    further_at = start + 2 + 12 * len(entries) + 4
    directory, further = struct.pack("<H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            place = struct.pack("<I", further_at + len(further))
            further += packed
        else:
            place = packed.ljust(4, b"\0")
        directory += struct.pack("<HHI", tag, kind, len(values)) + place
    body = data + b"\0" * (len(data) % 2)
    return struct.pack("<2sHI", b"II", 42, start) + body + directory + bytes(4) + further


def put(path: Path, data: bytes) -> Path:
    """Write a file, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def folders(root: Path, classes: Sequence[str] = ("a", "b"), images: int = 2) -> dict[str, Any]:
    """A whole set of class folders below ``root``, and its params; no two images are alike."""
    seed = 0
    for split in ("train", "val"):
        for name in classes:
            for index in range(images):
                seed += 1
                put(root / split / name / f"{index}.png", encoded(noise(seed)))
    return {"format": "folder", "train": "train", "val": "val"}


def tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar file of these members, in order; one name may stand twice."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def samples(labels: Sequence[object], first: int = 0) -> list[tuple[str, bytes]]:
    """Members of labelled samples, whose keys and pixels count from ``first``."""
    members = []
    for number, label in enumerate(labels, start=first):
        members.append((f"{number}.png", encoded(noise(number))))
        members.append((f"{number}.cls", str(label).encode()))
    return members


def parquet(path: Path, columns: Mapping[str, Any], metadata: object = None) -> None:
    """A Parquet file; ``metadata`` is what Hugging Face's key holds."""
    table = pa.table(dict(columns))
    if metadata is not None:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        table = table.replace_schema_metadata({"huggingface": text})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def rows(count: int, first: int = 0) -> list[dict[str, bytes]]:
    """An image column of Hugging Face's form."""
    return [{"bytes": encoded(noise(number))} for number in range(first, first + count)]


class Prepared:
    """What ``prepare`` makes of params.

    Raises:
        UserError: it refuses them.
    """

    def __init__(self, folder: Path, params: Mapping[str, Any]) -> None:
        file = put(folder / "trial.yaml", yaml.safe_dump(dict(params)).encode())
        out = folder / "out"
        prepare(file, out)
        self.facts = read_manifest(out, "prepare").facts
        self.train, self.val = (Images(out, split) for split in ("train", "val"))
        self.folder = out


def wds(root: Path, train: bytes | None = None, val: bytes | None = None) -> dict[str, Any]:
    """A set of one tar file a split, whole unless they are given, and its params."""
    put(root / "t.tar", train if train is not None else tar(samples([0, 1, 0, 1])))
    put(root / "v.tar", val if val is not None else tar(samples([0, 1], first=50)))
    return WDS


def table(root: Path, **more: Any) -> dict[str, Any]:
    """A whole set of one Parquet file a split, and its params."""
    parquet(root / "t.parquet", {"image": rows(4), "label": [0, 1, 0, 1]}, **more)
    parquet(root / "v.parquet", {"image": rows(2, 50), "label": [0, 1]}, **more)
    return PARQUET


def refused(tmp_path: Path, params: Mapping[str, Any], *parts: str) -> str:
    """The one line in which ``prepare`` refuses a set; nothing is written."""
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    with pytest.raises(UserError) as error:
        Prepared(tmp_path, params)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 2000
    for part in parts:
        assert part in message, message
    assert not (tmp_path / "out").exists()
    return message
