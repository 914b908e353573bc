"""Names and texts that come from file systems, archives and annotation files."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from steps.command import UserError

_BLANK = {"\u115f", "\u1160", "\u2800", "\u3164", "\uffa0"}
"""Letters and symbols by category that show nothing: Hangul fillers, the empty Braille cell."""

_UNKNOWN = ("Co", "Cn")
"""Characters of private use, and those newer than Python's tables: taken to be seen."""


def is_text(name: str) -> bool:
    """Whether UTF-8 can hold it: bytes that are none, and halves of pairs, are surrogates here."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_text(text: str) -> bool:
    """Whether anything of it is seen: not only spaces, controls, marks, characters of no width."""
    return any(
        unicodedata.category(character)[0] in "LNPS" or unicodedata.category(character) in _UNKNOWN
        for character in text
        if character not in _BLANK
    )


def printable(name: str) -> str:
    """A name that UTF-8 can hold; what it cannot is escaped."""
    return name.encode(errors="backslashreplace").decode()


def same_written(name: str) -> str:
    """One form of all names that are the same text, however accents are encoded (NFC)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def check_label_names(classes: Sequence[str], where: str) -> None:
    """Raise where a class has no readable name, or two have one.

    Raises:
        UserError: naming the class.
    """
    for name in classes:
        if not is_text(name) or not has_text(name):
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
