"""Names and texts that come from file systems, archives and annotation files."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeGuard

from steps.command import UserError
from steps.params.names import unprintable

_BLANK = {"\u115f", "\u1160", "\u2800", "\u3164", "\uffa0"}
"""Letters and symbols by category that show nothing: Hangul fillers, the empty Braille cell."""

_UNKNOWN = ("Co", "Cn")
"""Characters of private use, and those newer than Python's tables: taken to be seen."""


def is_text(name: str) -> bool:
    """True if UTF-8 can hold it: bytes that are none, and halves of pairs, are surrogates here."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def written(value: Any) -> TypeGuard[str]:
    """True of text of which something is seen.

    Spaces, controls, marks and characters of no width alone are not seen.
    """
    return (
        isinstance(value, str)
        and is_text(value)
        and any(
            unicodedata.category(sign)[0] in "LNPS" or unicodedata.category(sign) in _UNKNOWN
            for sign in value
            if sign not in _BLANK
        )
    )


def escaped(text: str) -> str:
    """One line of a name or a message; what no terminal shows as itself is escaped."""
    return "".join(
        sign.encode("unicode_escape").decode() if sign in "\n\t" or unprintable(sign) else sign
        for sign in text
    )


def same_written(name: str) -> str:
    """One form of all names that are the same text, however accents are encoded (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def check_label_names(classes: Sequence[str], where: str) -> None:
    """Raise where a class has no readable name, or two have one.

    Raises:
        UserError: naming the class.
    """
    for name in classes:
        if not written(name):
            raise UserError(
                where, f"a class is called {name!r}", allowed="a name of visible UTF-8 text"
            )
    twice = [name for name, count in Counter(map(same_written, classes)).items() if count > 1]
    if not twice:
        return
    forms = sorted({name for name in classes if same_written(name) == min(twice)})
    if len(forms) > 1:
        shown = " and ".join(map(ascii, forms[:2]))
        found = f"two classes have one name, with its accents encoded in two ways: {shown}"
    else:
        found = f"two classes have the name '{forms[0]}'"
    raise UserError(where, found, remedy="rename one, or make them one class")
