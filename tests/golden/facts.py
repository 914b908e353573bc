"""Published facts without tensors: each value is compared with our recipes, or named as prose."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps.params.load import load
from steps.params.methods import METHODS
from steps.params.recipe import Recipe
from tests.golden.case import Case
from tests.processes import REPOSITORY

RECIPES = REPOSITORY / "params/recipes/imagenet"


def known_methods() -> set[str]:
    """The names of all methods that a recipe may have."""
    return set(METHODS)


def recipe_file(name: str) -> Path:
    """The recipe of a method as published; the test fails by its name if there is none."""
    path = RECIPES / f"{name}.yaml"
    assert path.is_file(), f"{name}: facts are published, but there is no {path}"
    return path


def recipe(name: str) -> Recipe:
    """The same, read and checked."""
    return load(recipe_file(name), Recipe)


def comment(path: Path) -> str:
    """The comment that a params file opens with, on one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


class Facts:
    """A tree of facts whose leaves are all compared, or named as prose.

    A leaf may carry its basis: ``{"value": 1, "basis": "..."}`` stands for 1.
    """

    def __init__(self, case: Case, content: dict[str, Any], name: str) -> None:
        self.case, self.content, self.name = case, content, name
        self.used: set[str] = set()

    def __getitem__(self, path: str) -> Any:
        """The fact at a path such as ``recipe.vit_b.epochs``."""
        self.used.add(path)
        return _value(self._at(path))

    def get(self, path: str, otherwise: Any) -> Any:
        """The fact at a path, or another value where there is none."""
        try:
            return self[path]
        except KeyError:
            return otherwise

    def __contains__(self, path: str) -> bool:
        try:
            self._at(path)
        except (KeyError, TypeError):
            return False
        return True

    def equal(self, ours: Any, path: str) -> None:
        """Compare one of our values with a fact: a number, a text, a list of them, or null."""
        self.same(ours, self[path], path)

    def same(self, ours: Any, theirs: Any, path: str) -> None:
        """Compare with a value that was read from a fact."""
        self.case.compared += 1
        assert _equal(ours, theirs), f"{self.name}.{path}: ours {ours!r}, published {theirs!r}"

    def prose(self, *paths: str) -> None:
        """Facts that are remarks for a reader, or of what we do not run."""
        self.used.update(path for path in paths if path in self)

    def finish(self) -> None:
        """Fail by name on a fact that nothing looked at."""
        left = [
            leaf
            for leaf in _leaves(self.content)
            if not any(leaf == path or leaf.startswith(f"{path}.") for path in self.used)
        ]
        assert not left, f"{self.name}: published, but not compared: {left}"

    def _at(self, path: str) -> Any:
        found: Any = self.content
        for key in path.split("."):
            found = found[key]
        return found


def _value(found: Any) -> Any:
    return found["value"] if isinstance(found, dict) and "basis" in found else found


def _equal(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_equal, ours, theirs))
    numbers = isinstance(ours, int | float) and isinstance(theirs, int | float)
    if numbers and (isinstance(ours, float) or isinstance(theirs, float)):
        return math.isclose(ours, theirs, rel_tol=1e-9)
    return bool(ours == theirs)


def _leaves(content: Any, path: str = "") -> Iterator[str]:
    if isinstance(content, dict) and "basis" not in content:
        for key, value in content.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path
