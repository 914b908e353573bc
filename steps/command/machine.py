"""Errors of the machine in one line: a full or missing disk, a loading process that died."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steps.command.errors import UserError

_NUMBER = re.compile(r"\((?:os error|errno) (\d+)\)|\[Errno (\d+)\]", re.IGNORECASE)
"""Pattern of a system error's number as libraries in other languages print it."""
LOADERS = "the processes that load images (workers)"
_AGAIN = "then run the same command again: nothing that was whole is lost"
REMEDIES = {
    errno.ENOSPC: f"free some space, {_AGAIN}",
    errno.EDQUOT: f"free some space or have the quota raised, {_AGAIN}",
    errno.EFBIG: f"use a file system, or a limit (ulimit -f), that takes larger files, {_AGAIN}",
    errno.EROFS: f"make it writable or give another place, {_AGAIN}",
    errno.EACCES: f"have the permission given, {_AGAIN}",
    errno.EPERM: f"have the permission given, {_AGAIN}",
    errno.EIO: f"look at the disk or the network behind it, {_AGAIN}",
    errno.ESTALE: f"mount the file system again, {_AGAIN}",
    errno.ENOTCONN: f"mount the file system again, {_AGAIN}",
    errno.ETIMEDOUT: f"look at the network behind it, {_AGAIN}",
    errno.ENOLCK: "have the locks of the file system started (NFS: lockd), or use a local disk",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n), then run the same command again",
    errno.ENFILE: "close other programs, then run the same command again",
}
"""Errors that only the machine causes, each with a remedy."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the machine within the context into one line.

    Args:
        path: path being written, for errors that name no file.

    Raises:
        UserError: the disk is full, read-only, or fails in another way outside the code.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (said := of_machine(error, str(path))) is None:
            raise
        raise said from error


def of_machine(error: Exception, where: str) -> UserError | None:
    """User error for an error of the machine; None if it may be a bug of the code.

    Args:
        error: the original one.
        where: path being read or written, for errors that name no file.
    """
    # torch names the signal that ended a process only in the error before this one.
    for each in (error.__cause__ or error.__context__, error):
        if each is not None and (said := _of_loader(str(each))) is not None:
            return said
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if any(name.endswith("multiprocessing/resource_sharer.py") for name in frames):
        return _of_loader("DataLoader worker (pid)")  # It ended with a batch undelivered.
    number, named = getattr(error, "errno", None), getattr(error, "filename", None)
    if number is None and (match := _NUMBER.search(str(error))):
        number = int(match[1] or match[2])
    if (remedy := REMEDIES.get(number or 0)) is None:
        return None
    place = str(named) if isinstance(named, str | Path) else where
    return UserError(place, f"the machine says: {os.strerror(number or 0)}", remedy=remedy)


def _of_loader(text: str) -> UserError | None:
    """User error for torch's message about a process that loads images."""
    last = text.strip().rpartition("\n")[2]
    if "in DataLoader worker process" in text and (said := last.partition("UserError: ")[2]):
        return UserError.of(said)
    if re.search(r"shared memory|</torch_|Bus error", text):
        return UserError(
            LOADERS,
            "no room in shared memory (/dev/shm), through which they hand over images",
            remedy=f"make it larger (docker run --shm-size=8g) or set fewer workers, {_AGAIN}",
        )
    if killed := re.search(r"DataLoader worker \(pid \d+\) is killed by signal: (.*?)\.", text):
        return UserError(
            LOADERS,
            f"one was ended from outside ({killed[1]})",
            remedy=f"if memory ran out, set fewer workers, {_AGAIN}",
        )
    if text.startswith("DataLoader worker (pid"):
        return UserError(LOADERS, "one ended unexpectedly", remedy=f"set fewer workers, {_AGAIN}")
    if timed := re.match(r"DataLoader timed out after (\d+)", text):
        return UserError(
            LOADERS,
            f"no images for {timed[1]} seconds",
            remedy="look whether the disk of the data still answers and whether /dev/shm is full, "
            f"{_AGAIN}",
        )
    return None
