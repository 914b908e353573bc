"""Kinds of text in params. They are data in paths, commands and pages, and never change these."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Annotated

from annotated_types import Len
from pydantic import AfterValidator

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_RULE = (
    "a name has only letters a to z and A to Z, digits, _, - and ., begins with a letter or digit, "
    "has at most 64 characters, and does not end in .json"
)
"""Rule for names, in words."""
_LONGEST_PATH = 4096
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that change the direction of text, so that a page would show other text."""


def is_name(text: str) -> bool:
    """True if the text may name a params file, a row or a folder of results."""
    # Records end in .json, and folders do not.
    return _NAME.fullmatch(text) is not None and not text.endswith(".json")


def unprintable(text: str) -> str | None:
    """Number of the first character that terminals and pages do not show as itself, if any.

    These are control characters except line ends and tabs, halves of surrogate pairs, and marks
    that change the direction of text.
    """
    for character in text:
        control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        if control or character in _DIRECTIONS:
            return f"U+{ord(character):04X}"
    return None


def leads_out(path: str) -> bool:
    """True if a path leaves the folder that it is joined to; links are not followed."""
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
        raise ValueError(
            "a data path must not contain '..': give one below the data root, or absolute"
        )
    return text


def _path(text: str) -> str:
    if len(text) > _LONGEST_PATH:
        raise ValueError(f"a path of at most {_LONGEST_PATH} characters")
    return _line(text)


def _no_option(text: str) -> str:
    """Refuse text that a command would take for an option."""
    if text.startswith("-"):
        raise ValueError("text that does not begin with -")
    return text


Name = Annotated[str, AfterValidator(_name)]
"""Name of a params file, a row or an architecture, as used in paths and commands."""
Label = Annotated[str, Len(1, 200), AfterValidator(_line)]
"""One line of text for tables and pages."""
Below = Annotated[str, Len(1), AfterValidator(_below)]
"""Path of a file below the data root."""
PathText = Annotated[str, AfterValidator(_path)]
"""Path from the folder that commands run in, or absolute."""
Place = Annotated[str, Len(1), AfterValidator(_place)]
"""Path or glob below the data root, or absolute. Links are followed."""
