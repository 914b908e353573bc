"""Checkpoints of a running step: in a scratch folder keyed by all that decides its outcome."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from steps.command import UserError

SCRATCH = Path(".scratch")
FILE = "checkpoint.pt"


class Scratch:
    """A step's own folder, kept between a kill and the next run of the same thing."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    @property
    def checkpoint(self) -> Path:
        """Where the last good checkpoint stands, if there is one."""
        return self.folder / FILE

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint; a kill at any moment leaves the old one or the new one."""
        draft = self.checkpoint.with_suffix(".new")
        with draft.open("wb") as file:
            torch.save({"key": self.key, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.checkpoint)

    def load(self, path: Path | None = None) -> dict[str, Any] | None:
        """The last checkpoint, or None; ``path`` names another file to continue from.

        Raises:
            UserError: the file is unreadable, or belongs to another recipe, data set or code.
        """
        file = path or self.checkpoint
        if path is None and not file.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises a dozen kinds for a file that is not its own
            raise UserError(
                str(file), f"not a readable checkpoint: {error}", remedy="remove it and run again"
            ) from error
        if not isinstance(state, dict) or state.get("key") != self.key:
            raise UserError(
                str(file),
                "a checkpoint of another recipe, backbone, data set, seed or code version",
                allowed="one that the same command wrote",
                remedy="leave out --checkpoint, or restore what it was made with",
            )
        return state


@contextmanager
def scratch(node: str, key: str, *, owner: bool = True) -> Iterator[Scratch]:
    """The scratch folder of a step; removed when the step ends well, kept when it does not.

    Args:
        node: the step.
        key: digest of params, inputs, seed, code and process count.
        owner: False on all processes but the first.

    Raises:
        UserError: another process is at the same step.
    """
    folder = SCRATCH / f"{node}-{key[:16]}"
    if not owner:
        yield Scratch(folder, key)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                str(folder), "another process runs this very step", remedy="wait for it to end"
            ) from error
        yield Scratch(folder, key)
        shutil.rmtree(folder)
