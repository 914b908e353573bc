"""What stands behind the rows of an experiment: teachers, tokenizers, and their teachers.

A recipe may name a teacher or a tokenizer, a tokenizer a teacher. They are nodes of the DAG like
the rows themselves; a teacher that is a row is that row's artifact, one that is not is trained all
the same.
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
    """A backbone trained by a recipe, whatever the seed."""

    role: ClassVar[str] = "teacher"
    """What it is to a node that stands on it: the key in params, the option of the step."""
    backbone: str
    recipe: str

    @classmethod
    def of(cls, teacher: Teacher) -> Pretraining:
        """What a teacher names."""
        return cls(teacher.backbone, teacher.recipe)

    def __str__(self) -> str:
        return f"{self.recipe} on {self.backbone}"


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, whatever the seed."""

    role: ClassVar[str] = "tokenizer"
    name: str

    def __str__(self) -> str:
        return f"tokenizer {self.name}"


Node = Pretraining | Tokenizer
Reader = Callable[[Node, str], Recipe | TokenizerRecipe]
"""Reads a node's params; the text says who named it, for the error where there are none."""


def follow(
    rows: Iterable[Pretraining], read: Reader, where: Callable[[Node], str]
) -> dict[Node, list[Node]]:
    """Every node that the rows need, themselves included, with the nodes right behind each.

    Args:
        rows: where to start.
        read: gives a node's params.
        where: the params file of a node.

    Returns:
        Each node after what it needs.

    Raises:
        UserError: a node needs itself, or (from ``read``) one that is named has no params.
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
                remedy="name another one, or pretrain the teacher by a recipe without one",
            )
        behind = _behind(read(node, named_by))
        for other in behind:
            visit(other, f"{where(node)}: {other.role}", (*path, node))
        needs[node] = behind

    for row in rows:
        visit(row, "", ())
    return needs


def _behind(params: Recipe | TokenizerRecipe) -> list[Node]:
    """The nodes that a node needs."""
    nodes: list[Node] = [] if params.teacher is None else [Pretraining.of(params.teacher)]
    if isinstance(params, Recipe) and params.tokenizer is not None:
        nodes.append(Tokenizer(params.tokenizer))
    return nodes
