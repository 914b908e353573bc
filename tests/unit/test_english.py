"""Docstrings and pages keep to plain English, as far as a pattern can tell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.pages import TEXT
from tests.processes import REPOSITORY

MODULES = sorted(
    str(file.relative_to(REPOSITORY))
    for package in ("steps", "workflow")
    for file in (REPOSITORY / package).rglob("*.py")
)
OPENERS = ("What", "Of", "Whether", "How")
"""First words that hide the noun: name the thing, as in "Index of the first step of the phase"."""
_PER = (
    "row|line|file|folder|bit|bytes?|vector|column|score|probe|reader|stage|step|rule|table|page"
    "|images?|seconds?|views?|captions?|tokens?|thread|threads"
)
_EACH = "image|class|node|method|row|task|format|seed|patch|job|pixel|second|sample|factor|page"
BANNED = {
    rf"\b(?:{_PER}) an? (?:{_EACH})\b": "one X per Y",
    r"\banew\b": "again, from the beginning",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bbesides(?=[.,;:)]|$)": "also",
    r"\bhas not(?=[.,;:)]|$)": "lacks",
    r"\blikewise the next\b": "document each field",
    r"(?:^|[;,] )likewise (?:of|for|`)": "document each field",
    r"\bso many\b": "name the number",
    r"\bof before\b": "earlier, older",
    r"\b(?:boxes|captions|labels|rows|methods|images|those) alone\b": "only",
    r"\bthe house\b|\brooms?\b": "package",
    r"\bthat there (?:is|are)\b(?=[.,;:)]|$)": "existing",
}
"""Patterns, and what to write instead."""


def docstrings(module: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, those of fields and constants included."""
    tree = ast.parse((REPOSITORY / module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                yield statement.lineno, statement.value.value.strip()


def found(text: str) -> list[str]:
    """Banned phrases of a text, each with what to write instead."""
    flat = " ".join(text.split())
    return [
        f"'{match[0]}': {instead}"
        for pattern, instead in BANNED.items()
        for match in re.finditer(pattern, flat, re.I)
    ]


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module: str) -> None:
    wrong = []
    for line, text in docstrings(module):
        opener = re.match(r"\w*", text)
        if opener is not None and opener[0] in OPENERS:
            wrong.append(f"{module}:{line}: begins with '{opener[0]}': name the thing")
        wrong += [f"{module}:{line}: {phrase}" for phrase in found(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", TEXT)
def test_pages(page: str) -> None:
    prose = re.sub(r"^```.*?^```$", "", TEXT[page], flags=re.M | re.S)
    assert not found(prose)


def test_it_finds_what_it_bans() -> None:
    assert found("A row an image; the rest is read\nanew.")
    assert not found("One row per image of a class.")
