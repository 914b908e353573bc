"""Files in torch's format: written whole, held to their own checksums, read as data.

Such a file is a zip archive, uncompressed, with a CRC-32 for each of its records. torch writes the
checksums and does not look at them when it reads.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from steps.command import UserError

SLACK = 64 * 2**20
"""Bytes by which an archive may inflate: the compressed code in one of TorchScript."""


def save(content: dict[str, Any], path: Path) -> None:
    """Write a file, whole or as it was; a draft that fails is removed.

    Raises:
        OSError: the disk does not take it.
    """
    draft = path.with_suffix(".new")
    try:
        with draft.open("wb") as file:
            written: Any = _Written(file)
            try:
                torch.save(content, written)
            except Exception as error:
                # torch says that its archive is not what it should be, and not why.
                raise written.error or error from None
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path) -> Any:
    """The content of a file of :func:`save`, on the CPU.

    Raises:
        UserError: it would inflate.
        ValueError: a record differs from its checksum.
        Exception: of a dozen kinds, for what is no such file; :func:`reason` says why.
    """
    check_sizes(path)
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"damaged: {damaged} in it differs from its checksum")
    return torch.load(path, map_location="cpu", weights_only=True)


def check_sizes(path: Path) -> None:
    """Refuse a zip archive that would inflate to more than its own size, before anything does.

    Raises:
        UserError: naming both sizes.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        inflated = sum(entry.file_size for entry in archive.infolist())
    size = path.stat().st_size
    if inflated > size + SLACK:
        raise UserError(
            str(path),
            f"an archive of {size} bytes that would inflate to {inflated}; it was not opened",
            allowed="records stored as they are, as torch writes them",
        )


def reason(error: Exception) -> str:
    """Reason that a file could not be read, without torch's advice to run what stands in it."""
    if isinstance(error, pickle.UnpicklingError):
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
            return f"it holds a pickled {match[1]}, which was not opened"
        return "its pickle is not one that torch writes for weights"
    return str(error)[:200] or type(error).__name__


class _Written:
    """A file that keeps the error of a write, which torch replaces by one of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
