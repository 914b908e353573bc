"""Text and numbers as pages, figures and terminals show them."""

from __future__ import annotations

import math
import re
import shlex
import unicodedata
from urllib.parse import quote

# --- Text of records and params inside Markdown, figures and terminals: shown as it is, never
# obeyed
# Names that params allow come out unchanged. Anything else in a record or title, such as HTML,
# links, pipes, line ends or marks that turn the direction of text, is shown as its characters.


_SPECIAL = re.compile(
    r"""[\\`*\[\]|~$]           # code, emphasis, links, columns, strike-through, formulas
    | (?<![^\W_])_ | _(?![^\W_])  # emphasis; within a word it is none
    | (?<=:)/(?=/)              # an address
    | (?<=\bwww)\.              # an address without a scheme
    """,
    re.VERBOSE,
)
_BLOCK = re.compile(r"^([#+=-]|\d+(?=[.)]))")
"""Signs that begin a heading, a list or a rule at the start of a line."""
_SPACE = re.compile(r"[ \t-\r\x1c-\x1f\x85\u2028\u2029]+")
"""White space that may end a line; a no-break space may not."""
_PLAIN_CODE = re.compile(r"[\w.@%()+=/ ,:-]+")


class Markup(str):
    """Text that is already Markdown, made here."""

    __slots__ = ()


def printable(text: str) -> str:
    """``text`` in one line, with a mark for each character that pages do not show."""
    return visible(_SPACE.sub(" ", text))


def visible(text: str) -> str:
    """``text`` with a mark for each character that is not shown as itself, line ends included."""
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
    # The point after a number makes it a list.
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


# --- Numbers as the tables print them


_FLOPS = ((1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"))


def significant(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits, never in exponent form: 0.0123, 12.3, 1,230."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}"


def measured(value: float, unit: str) -> str:
    """A metric's value: shares in percent with one decimal, anything else with four digits."""
    return f"{value:.1f}" if unit == "%" else f"{value:.4g}"


def flops_unit(largest: float) -> tuple[float, str]:
    """The divisor and name of the unit in which a column up to ``largest`` FLOPs reads best."""
    # As it will be printed: 0.9998 TFLOPs are 1 TFLOP, and not 1,000 GFLOPs.
    printed = float(f"{largest:.2e}")
    return next((unit for unit in _FLOPS if printed >= unit[0]), _FLOPS[-1])


def plural(count: int, noun: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
