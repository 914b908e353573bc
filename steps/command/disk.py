"""Say in one line that a disk is full, read-only or gone, and which."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steps.command.errors import UserError

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
"""Errors that come from the machine, whatever the code does, and what to do about them."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the machine inside into one line.

    Args:
        path: what is written, for errors that name no file themselves.

    Raises:
        UserError: the disk is full, read-only, or fails in another way that is not the code's.
    """
    try:
        yield
    except OSError as error:
        if (said := of_machine(error, str(path))) is None:
            raise
        raise said from error


def of_machine(error: OSError, where: str) -> UserError | None:
    """The line for an error of the machine; None where it may be one of the code."""
    if (remedy := REMEDIES.get(error.errno or 0)) is None:
        return None
    named = error.filename if isinstance(error.filename, str) else where
    text = (error.strerror or "").lower()
    return UserError(named, f"the machine says: {text}", remedy=remedy)
