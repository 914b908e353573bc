"""YAML as params take it: plain values, each key once, of a size that a person writes."""

from __future__ import annotations

import re
from typing import Any

import yaml

DEEPEST = 50
"""Levels of lists and mappings in each other."""
MOST = 100_000
"""Values of a file, those of aliases counted wherever they stand."""


class Loader(yaml.SafeLoader):
    """Safe YAML with two changes: ``1e-4`` is a number (as in YAML 1.2), a key may stand once.

    What is nested too deeply, or grows without bound by its aliases, is an error before it is
    built.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node, counted."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._refuse(f"nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        # An alias gives the node that it names, which has its size already.
        if id(node) not in self._sizes:
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(each), 1) for each in _parts(node))
        if self._sizes[id(node)] > MOST:
            raise self._refuse(f"more than {MOST:,} values, aliases counted")
        return node

    def _refuse(self, why: str) -> yaml.YAMLError:
        return yaml.composer.ComposerError(None, None, why, self.get_mark())

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The value of a node; a scalar that is none of its tag's is an error of the file."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            tag = str(node.tag).rpartition(":")[2]
            why = f"found what is no {tag}"
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark) from error


def _parts(node: Any) -> list[Any]:
    """The nodes right below one."""
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _construct_once(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(
            None, None, f"key '{twice[0]}' stands twice", node.start_mark
        )
    loader.flatten_mapping(node)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


Loader.add_constructor("tag:yaml.org,2002:map", _construct_once)
