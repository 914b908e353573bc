"""The import graph of steps/: no circle of modules, and no import of a package further up.

Imports within functions and those under TYPE_CHECKING count too: they hide a circle, and do not
remove it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.processes import REPOSITORY

ORDER = (
    ("reporting", "diagnosis", "detection", "exporting"),
    ("evaluation",),
    ("engine",),
    ("tokenizers",),
    ("methods",),
    ("official",),
    ("models",),
    ("data",),
    ("core",),
    ("artifacts",),
    ("params",),
    ("command",),
)
"""Packages below steps/*.py, from the top; each imports only from its own line and below."""
RANKS = {package: rank for rank, line in enumerate(ORDER, 1) for package in line}
FILES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((REPOSITORY / "steps").rglob("*.py"))
}


def _imported(module: str) -> Iterator[str]:
    """Modules of steps/ that a module names in its imports, wherever they stand."""
    for node in ast.walk(ast.parse(FILES[module].read_bytes())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name for name in names if name in FILES and name != module)


GRAPH = {module: sorted({*_imported(module)}) for module in FILES}


def _circle(module: str, path: tuple[str, ...], done: set[str]) -> tuple[str, ...]:
    """The first circle that imports from a module run into; () where there is none."""
    if module in path:
        return (*path[path.index(module) :], module)
    if module not in done:
        for other in GRAPH[module]:
            if found := _circle(other, (*path, module), done):
                return found
        done.add(module)
    return ()


def test_no_circle_of_modules() -> None:
    done: set[str] = set()
    circles = [circle for module in GRAPH if (circle := _circle(module, (), done))]
    assert not circles, " -> ".join(circles[0])


def test_no_import_of_a_package_further_up() -> None:
    def rank(module: str) -> int:
        package, _, below = module.removeprefix("steps.").partition(".")
        inside = below or FILES[module].name == "__init__.py"
        return RANKS[package] if inside else 0

    upward = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if "steps" not in (module, other) and rank(other) < rank(module)
    ]
    assert not upward, "\n".join(upward)
