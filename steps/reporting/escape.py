"""Text of records and params inside Markdown, figures and terminals: shown as it is, never obeyed.

Names that params allow come out unchanged. What else a record or a title holds, such as HTML,
links, pipes, line ends or marks that turn the direction of text, is shown as those characters.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from urllib.parse import quote

_SPECIAL = re.compile(
    r"""[\\`*\[\]|~$]           # code, emphasis, links, columns, strike-through, formulas
    | (?<![^\W_])_ | _(?![^\W_])  # emphasis; within a word it is none
    | (?<=:)/(?=/)              # an address
    | (?<=\bwww)\.              # likewise
    """,
    re.VERBOSE,
)
_BLOCK = re.compile(r"^([#+=-]|\d+(?=[.)]))")
"""Signs that begin a heading, a list or a rule where they stand first in a line."""
_SPACE = re.compile(r"[ \t-\r\x1c-\x1f\x85\u2028\u2029]+")
"""White space that may end a line; a no-break space may not."""
_PLAIN_CODE = re.compile(r"[\w.@%()+=/ ,:-]+")


class Markup(str):
    """Text that is Markdown already, of our making."""

    __slots__ = ()


def printable(text: str) -> str:
    """``text`` in one line, without what no page shows as itself."""
    return visible(_SPACE.sub(" ", text))


def visible(text: str) -> str:
    """``text`` with a mark for each character that is not shown as itself, line ends too."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if _is_hidden(character) else character for character in text
    )


def _is_hidden(character: str) -> bool:
    """True of control and format characters, lone surrogates and what is private or unassigned."""
    return unicodedata.category(character).startswith("C")


def plain(text: str) -> Markup:
    """``text`` as part of a line or a cell; Markdown of ours stays."""
    if isinstance(text, Markup):
        return text
    escaped = _SPECIAL.sub(r"\\\g<0>", printable(text))
    escaped = re.sub(r"&(?=#?\w+;)", "&amp;", escaped)
    return Markup(escaped.replace("<", "&lt;").replace(">", "&gt;"))


def paragraphs(text: str) -> Markup:
    """``text`` of several lines, each as it stands, none of them a heading, a list or code."""
    return Markup("\n".join(map(beginning, text.strip().splitlines())))


def beginning(text: str) -> Markup:
    """``text`` where a line or an item of a list begins: it is no heading and no list itself."""
    return Markup(_BLOCK.sub(_escape_block, plain(text)))


def _escape_block(found: re.Match[str]) -> str:
    # Of a number the point behind it is what makes a list.
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


def code(name: str) -> Markup:
    """A name set as code, as far as it can be."""
    return Markup(f"`{name}`") if _PLAIN_CODE.fullmatch(name) else plain(name)


def target(path: str) -> str:
    """A path as a link's target."""
    return quote(path, safe="/.-_~:+@,")


def word(text: str) -> str:
    """``text`` as a word of a command line that a page shows, to be copied into a shell."""
    return shlex.quote(visible(text))


def drawn(text: str) -> str:
    """``text`` for a figure, in which a dollar sign would begin a formula."""
    return printable(text).replace("$", r"\$")
