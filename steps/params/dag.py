"""The nodes that the rows of an experiment depend on: teachers, tokenizers, and their teachers.

A recipe may name a teacher or a tokenizer, a tokenizer may name a teacher. They are nodes of the
DAG like the rows. A teacher that is also a row is trained once; any other is trained too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

from steps.command import UserError
from steps.params.recipe import Recipe, Teacher
from steps.params.tokenizers import TokenizerRecipe


@dataclass(frozen=True)
class Pretraining:
    """A backbone trained by a recipe, for any seed."""

    role: ClassVar[str] = "teacher"
    """Its role for a node that needs it: the key in params, and the option of the step."""
    backbone: str
    recipe: str

    @classmethod
    def of(cls, teacher: Teacher) -> Pretraining:
        """The pretraining that a teacher names."""
        return cls(teacher.backbone, teacher.recipe)

    def __str__(self) -> str:
        return f"{self.recipe} on {self.backbone}"


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, for any seed."""

    role: ClassVar[str] = "tokenizer"
    name: str

    def __str__(self) -> str:
        return f"tokenizer {self.name}"


Node = Pretraining | Tokenizer
Reader = Callable[[Node, str], Recipe | TokenizerRecipe]
"""Reads a node's params; the text says which key named it, for the error if they are missing."""


def follow(
    rows: Iterable[Pretraining], read: Reader, where: Callable[[Node], str]
) -> dict[Node, list[Node]]:
    """Every node that the rows need, rows included, with the nodes that each needs directly.

    Args:
        rows: the pretrainings to start from.
        read: reads a node's params.
        where: gives the params file of a node.

    Returns:
        Each node after the nodes that it needs.

    Raises:
        UserError: a node needs itself, or (from ``read``) a named node has no params.
    """
    needs: dict[Node, list[Node]] = {}

    def visit(node: Node, named_by: str, path: tuple[Node, ...]) -> None:
        if node in needs:
            return
        if node in path:
            way = [*path[path.index(node) :], node]
            raise UserError(
                named_by,
                f"a circle: {', which needs '.join(map(str, way))}",
                allowed="a teacher or tokenizer that does not lead back to itself",
                remedy="name another one, or pretrain the teacher by a recipe without a teacher",
            )
        behind = _behind(read(node, named_by))
        for other in behind:
            visit(other, f"{where(node)}: {other.role}", (*path, node))
        needs[node] = behind

    for row in rows:
        visit(row, "", ())
    return needs


def _behind(params: Recipe | TokenizerRecipe) -> list[Node]:
    """The nodes that a node needs directly."""
    nodes: list[Node] = [] if params.teacher is None else [Pretraining.of(params.teacher)]
    if isinstance(params, Recipe) and params.tokenizer is not None:
        nodes.append(Tokenizer(params.tokenizer))
    return nodes
