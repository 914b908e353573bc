"""Files in torch's format: written whole, checked by their own checksums, read as data.

Such a file is an uncompressed zip archive with one CRC-32 per record. torch writes these checksums
but does not check them.
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
"""Bytes by which an archive may inflate; TorchScript compresses its code."""


def save(content: dict[str, Any], path: Path) -> None:
    """Write a file whole, or leave it unchanged and remove the draft.

    Raises:
        OSError: writing fails.
    """
    draft = path.with_suffix(".new")
    try:
        with draft.open("wb") as file:
            written: Any = _Written(file)
            try:
                torch.save(content, written)
            except Exception as error:
                # torch only says that the archive is broken; the cause is the failed write.
                raise written.error or error from None
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: Path) -> Any:
    """Read a file of :func:`save` to the CPU.

    Raises:
        UserError: it would inflate.
        ValueError: a record differs from its checksum.
        Exception: one of a dozen kinds, for any other file; :func:`reason` says why.
    """
    check_sizes(path)
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"damaged: {damaged} in it differs from its checksum")
    return torch.load(path, map_location="cpu", weights_only=True)


def check_sizes(path: Path) -> None:
    """Refuse a zip archive that would inflate to more than its size, before it is read.

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
    """Reason that a file is unreadable, without torch's advice to run the code in it."""
    if isinstance(error, pickle.UnpicklingError):
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
            return f"it holds a pickled {match[1]}, which was not opened"
        return "its pickle is not one that torch writes for weights"
    return str(error)[:200] or type(error).__name__


class _Written:
    """A file that keeps the error of a write, which torch hides behind its own."""

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
