"""The one exception that is written for users."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the code is wrong: a file, a key, an image, a machine.

    Args:
        where: the file (and key, row or line) at fault.
        found: value or state found there.
        allowed: values that are allowed.
        remedy: action that fixes it.

    The message is always one line, so that it survives any log.
    """

    def __init__(self, where: str, found: str, *, allowed: str = "", remedy: str = "") -> None:
        parts = [f"{where}: {found}"]
        if allowed:
            parts.append(f"allowed: {allowed}")
        if remedy:
            parts.append(f"remedy: {remedy}")
        super().__init__(" | ".join(" ".join(part.split()) for part in parts))
        self.where = where

    @classmethod
    def of(cls, line: str) -> UserError:
        """Rebuild an error from the line that another process printed."""
        where, _, found = line.partition(": ")
        return cls(where, found)
