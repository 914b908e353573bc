"""Every promise of docs/reliability.md has a test that is there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.processes import REPOSITORY

PAGE = (REPOSITORY / "docs/reliability.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_it_is_there(file: str, name: str) -> None:
    tree = ast.parse((REPOSITORY / "tests" / file).read_text(encoding="utf-8"))
    assert name in [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_every_row_names_one() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| Event", "| ---"))]
    assert len(promises) > 20
    for row in promises:
        assert "::" in row, row
