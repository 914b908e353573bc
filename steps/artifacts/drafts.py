"""Drafts: what a step writes stands beside its place until it is whole, then takes it by a rename.

A draft is a private folder ``.NAME.xxxxxxxx`` beside ``NAME``. The process that fills it holds a
lock in it, which goes with the process however it ends: what nobody holds is of a killed step.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_NEW, _OLD, _LOCK = "new", "old", "lock"
_ATTEMPTS = 100
"""Tries of a process to replace a result that another process replaces too."""


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """Yield a path, where nothing is yet, for the file or folder that :func:`put` puts to ``out``.

    Whatever happens, the draft goes; what stood at ``out`` stays, or is what was put there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        # Locked before it has its name, so that nobody finds it there and free.
        with (folder / f"{_LOCK}.{_NEW}").open("w", encoding="utf-8") as lock:
            with suppress(OSError):  # without locks there is no telling who lives: nothing is swept
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Path(lock.name).rename(folder / _LOCK)
            yield folder / _NEW
    finally:
        _settle(folder, out)


def put(draft: Path, out: Path) -> None:
    """Move a whole draft to its place. What stands there is replaced.

    A folder cannot be renamed over a full one. Between two renames ``out`` is absent, never half
    there; a kill just then leaves both in the draft, and :func:`sweep` puts the old one back.
    """
    for attempt in range(_ATTEMPTS):
        try:
            if draft.is_dir() and out.exists():
                out.rename(draft.with_name(f"{_OLD}{attempt}"))
            draft.replace(out)
            break
        except OSError as error:
            # Another process replaces it too: one of the two comes last.
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not draft.exists() or attempt + 1 == _ATTEMPTS:
                raise
    sync(out.parent)


def sweep(out: Path) -> None:
    """Remove the drafts that killed steps left of ``out``, and put back what one of them moved."""
    mine = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}")
    for folder in out.parent.iterdir() if out.parent.is_dir() else ():
        if mine.fullmatch(folder.name):
            with suppress(OSError), (folder / _LOCK).open("r+", encoding="utf-8") as lock:
                if _free(lock):
                    _settle(folder, out)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(out: Path, content: bytes) -> None:
    """Write a file: whole, or as it was."""
    sweep(out)
    with draft_of(out) as draft:
        draft.write_bytes(content)
        sync(draft)
        put(draft, out)


def _free(lock: IO[str]) -> bool:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def _settle(folder: Path, out: Path) -> None:
    """Remove a draft; what it moved away goes back where nothing has taken its place."""
    moved = sorted(folder.glob(f"{_OLD}*"), key=lambda path: int(path.name[3:]))
    if moved and not os.path.lexists(out):
        with suppress(OSError):  # another process may just have put its own
            moved[-1].rename(out)
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:  # a signal: what is begun here is ended first
        shutil.rmtree(folder, ignore_errors=True)
        raise
