"""The written pages: README.md, CONTRIBUTING.md and docs/, with their blocks of code."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.processes import REPOSITORY

DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS]
TEXT = {str(page.relative_to(REPOSITORY)): page.read_text(encoding="utf-8") for page in PAGES}
"""The pages by path."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    mark: str
    """The comment in the line above; empty where there is none."""
    language: str
    """After the fence; empty for commands of a shell."""
    content: str

    @property
    def test(self) -> tuple[str, str] | None:
        """File, below tests/, and name of the test that runs it."""
        found = re.fullmatch(r"test: ([\w/]+\.py)::(\w+)", self.mark)
        return None if found is None else (found[1], found[2])


def blocks() -> list[Block]:
    """All fenced blocks of all pages."""
    pattern = r"^(?:<!-- ([^\n]*) -->\n)?```(\w*)\n(.*?)^```$"
    return [
        Block(page, mark, language, content)
        for page, text in TEXT.items()
        for mark, language, content in re.findall(pattern, text, re.M | re.S)
    ]


def block_run_by(test: str) -> Block:
    """The only block that names a test, such as ``unit/test_docs.py::test_x``."""
    (block,) = [block for block in blocks() if block.mark == f"test: {test}"]
    return block
