"""Kinds of text that params take: data for paths, commands and pages, never part of any of them."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Annotated

from annotated_types import Len
from pydantic import AfterValidator

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_RULE = (
    "a name is of letters a to z and A to Z, digits, _, - and ., begins with a letter or digit, "
    "has at most 64 characters, and does not end in .json"
)
"""Rule for names, in words."""
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the direction of the text after them: a page would show another text."""


def is_name(text: str) -> bool:
    """True of what may name a file of params, a row, a folder of results."""
    # Records end in .json, and folders do not.
    return _NAME.fullmatch(text) is not None and not text.endswith(".json")


def unprintable(text: str) -> str | None:
    """The first character that no terminal and no page shows as itself, by its number.

    These are control characters but line ends and tabs, halves of surrogate pairs, and marks that
    turn the direction of text.
    """
    for character in text:
        control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        if control or character in _DIRECTIONS:
            return f"U+{ord(character):04X}"
    return None


def leads_out(path: str) -> bool:
    """True of a path that leaves the folder which it is joined to; its links are not looked at."""
    return PurePosixPath(path).is_absolute() or _climbs(path)


def _climbs(path: str) -> bool:
    return ".." in PurePosixPath(path).parts


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError(NAME_RULE)
    return text


def _line(text: str) -> str:
    if not text.strip() or "\n" in text or "\t" in text:
        raise ValueError("one line of text")
    return _no_option(text)


def _below(text: str) -> str:
    if leads_out(text):
        raise ValueError(
            "a path below the data root ($PRETEXT_DATA, else data/), such as "
            "official/mae_pretrain_vit_base.pth"
        )
    return _no_option(text)


def _place(text: str) -> str:
    if _climbs(text):
        raise ValueError("a path of data has no '..': give one below the data root, or absolute")
    return text


def _no_option(text: str) -> str:
    """A command would take it for an option."""
    if text.startswith("-"):
        raise ValueError("text that does not begin with -")
    return text


Name = Annotated[str, AfterValidator(_name)]
"""Name of a params file, a row, an architecture: it stands in paths and commands."""
Label = Annotated[str, Len(1, 200), AfterValidator(_line)]
"""A line of text that tables and pages print."""
Below = Annotated[str, Len(1), AfterValidator(_below)]
"""A path of a file below the data root."""
Place = Annotated[str, Len(1), AfterValidator(_place)]
"""A path or a glob below the data root, or an absolute one; links on the way are followed."""
