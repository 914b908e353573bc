"""Scratch folders, which a killed step leaves for the next run of the same identity.

A folder holds the step's checkpoints and logs, and three files of its own: the identity, the
progress of the last checkpoint, and the changes of code that it was carried over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steps.artifacts.identity import Identity
from steps.command import UserError
from steps.command.machine import writing

SCRATCH = Path(".scratch")
LOCK = "lock"
_IDENTITY, _PROGRESS, _TAKEN_UP = "identity.json", "progress.json", "taken_up.json"

log = logging.getLogger(__name__)


class InUseError(UserError):
    """Another process holds a scratch folder."""


class ScratchFolder:
    """The scratch folder of a run.

    Args:
        folder: an existing folder.
        identity: of the run; without one, checkpoints are not compared with any.
        started: ``time.monotonic()`` when the step began; default: now.
    """

    def __init__(
        self, folder: Path, identity: Identity | None = None, started: float | None = None
    ) -> None:
        self.folder = folder
        self.identity = identity
        self._started = time.monotonic() if started is None else started
        self._before = progress(folder).get("seconds", 0.0)

    @property
    def seconds(self) -> float:
        """Wall time of the run: of this process, and of earlier ones up to the checkpoint that it
        resumed from."""
        return float(self._before) + time.monotonic() - self._started

    @property
    def started(self) -> float:
        """``time.monotonic()`` of the start, as if the whole run were in this process."""
        return time.monotonic() - self.seconds

    def mark(self, step: int) -> None:
        """Write down the step of the last checkpoint."""
        _write(self.folder / _PROGRESS, {"step": step, "seconds": round(self.seconds, 3)})

    @property
    def taken_up(self) -> dict[str, Any]:
        """Facts for the manifest: the steps at which code changed, and the changes."""
        changes = _read(self.folder / _TAKEN_UP)
        return {"code_changed": changes} if changes else {}


def folder_of(identity: Identity) -> Path:
    """Path of the scratch folder of an identity."""
    return SCRATCH / f"{identity.node}-{identity.key[:16]}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a scratch folder for this process, until the process ends.

    Raises:
        UserError: another process holds it, or its file system lacks locks.
    """
    with writing(folder):
        opened = (folder / LOCK).open("w", encoding="utf-8")
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise InUseError(
                    str(folder), "another process runs this very step", remedy="wait for it to end"
                ) from error
            raise UserError(
                str(folder),
                f"its file system gives no lock ({error.strerror}), by which two processes at one "
                "step are kept apart",
                remedy="have its locks started (NFS: lockd, or the mount option local_lock=flock), "
                f"or make {SCRATCH} a link to a folder on a local disk",
            ) from error
        yield


def in_use(folder: Path) -> bool:
    """True if a process holds the scratch folder."""
    try:
        with locked(folder):
            return False
    except InUseError:
        return True
    except UserError:  # Without locks no process can hold one.
        return False


@contextmanager
def own_folder(identity: Identity) -> Iterator[Path]:
    """Yield the locked scratch folder of a run; it is removed if the step succeeds and kept
    otherwise.

    Checkpoints of the same run by other code or params are named in the log.

    Raises:
        UserError: another process runs the same step, or the folder was removed meanwhile.
    """
    folder = folder_of(identity)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not progress(folder):
            for line in left_behind(identity):
                log.warning("%s", line)
        _write(folder / _IDENTITY, identity.model_dump())
        try:
            yield folder
        except FileNotFoundError as error:
            if folder.is_dir():
                raise
            raise UserError(
                str(folder),
                "removed while the step ran",
                remedy="run the same command again: the run starts from the beginning",
            ) from error
        shutil.rmtree(folder, ignore_errors=True)


def left_behind(identity: Identity) -> list[str]:
    """One line per older checkpoint that a run of this identity cannot resume from."""
    lines = []
    for folder in sorted(SCRATCH.glob(f"{identity.node}-*")):
        other = read_identity(folder)
        step = progress(folder).get("step")
        if other is None or step is None or other.key == identity.key:
            continue
        if (other.node, other.subject) != (identity.node, identity.subject):
            continue
        asked = other.differences(identity)
        changed = asked or [f"code ({', '.join(_few(other.code.changes(identity.code)))})"]
        line = (
            f"{identity.subject}: starts anew and leaves the checkpoint of step {step} in {folder} "
            f"behind, since {', '.join(changed)} changed"
        )
        if not asked:
            line += (
                f"; to go on from it, stop and run: python -m workflow.scratch --take-up {folder}"
            )
        lines.append(line)
    return lines


def take_up(folder: Path) -> tuple[Path, int, list[str]]:
    """Hand a scratch folder of other code to the run of the same files with today's code.

    Returns:
        The folder's new path, the step of its checkpoint, and the changes of the code.

    Raises:
        UserError: it has no checkpoint, its params or inputs have changed, or it is in use.
    """
    identity, step = read_identity(folder), progress(folder).get("step")
    if identity is None or step is None:
        raise UserError(
            str(folder),
            "no such scratch folder" if not folder.is_dir() else "holds no checkpoint",
            allowed="a folder that python -m workflow.scratch lists with a step",
        )
    now = identity.now()
    asked, changed = identity.differences(now), identity.code.changes(now.code)
    if asked:
        raise UserError(
            str(folder),
            f"a checkpoint of other params, inputs or seed: {', '.join(asked)} changed",
            allowed="one of which only the code or a library changed",
            remedy="put back what it was made with, or let the run start from the beginning",
        )
    if not changed:
        raise UserError(
            str(folder),
            "made by the code that is here",
            remedy="run the same command: it goes on from there by itself",
        )
    target = folder_of(now)
    if progress(target):
        raise UserError(
            str(target),
            "a checkpoint of the code that is here stands there already",
            remedy=f"remove it to go on from {folder} in its place",
        )
    with locked(folder):
        shutil.rmtree(target, ignore_errors=True)
        entry = {"step": step, "changed": changed}
        _write(folder / _TAKEN_UP, [*(_read(folder / _TAKEN_UP) or []), entry])
        _write(folder / _IDENTITY, now.model_dump())
        folder.rename(target)
    return target, step, changed


def read_identity(folder: Path) -> Identity | None:
    """Identity of a scratch folder; None if it has no readable one."""
    try:
        return Identity.model_validate(_read(folder / _IDENTITY))
    except ValidationError:
        return None


def progress(folder: Path) -> dict[str, Any]:
    """``step`` and ``seconds`` of the last checkpoint; empty if there is none."""
    found = _read(folder / _PROGRESS)
    numbers = isinstance(found, dict) and all(
        isinstance(found.get(key), int | float) for key in ("step", "seconds")
    )
    return found if numbers else {}


def _few(names: list[str], most: int = 3) -> list[str]:
    return names if len(names) <= most else [*names[:most], f"{len(names) - most} more"]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _write(path: Path, value: Any) -> None:
    draft = path.with_name(f"{path.name}.new")
    try:
        with writing(path), draft.open("w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
