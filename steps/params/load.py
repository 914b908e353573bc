"""Read a YAML file into a params model, with errors of one line."""

from __future__ import annotations

import argparse
import difflib
import math
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from steps.command import UserError
from steps.params.base import LARGEST
from steps.params.names import unprintable

# --- YAML for params: plain values, unique keys, limited size


DEEPEST = 50
"""Most levels of nested lists and mappings."""
MOST = 100_000
"""Most values of a file, with those of aliases counted at every use."""


class Loader(yaml.SafeLoader):
    """Safe YAML with two changes: ``1e-4`` is a number (as in YAML 1.2), and keys are unique.

    Content that is nested too deeply, or that aliases multiply without bound, is refused before it
    is built.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node and count its values."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._refuse(f"nested deeper than {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        # An alias returns the node that it names, which is counted already.
        if id(node) not in self._sizes:
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(each), 1) for each in _parts(node))
        if self._sizes[id(node)] > MOST:
            raise self._refuse(f"more than {MOST:,} values, aliases counted")
        return node

    def _refuse(self, why: str) -> yaml.YAMLError:
        return yaml.composer.ComposerError(None, None, why, self.get_mark())

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Construct a node's value; a scalar that does not match its tag is an error."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            tag = str(node.tag).rpartition(":")[2]
            why = f"found a value that is not of type {tag}"
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark) from error


def _parts(node: Any) -> list[Any]:
    """Child nodes."""
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
            None, None, f"key '{twice[0]}' appears twice", node.start_mark
        )
    loader.flatten_mapping(node)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


Loader.add_constructor("tag:yaml.org,2002:map", _construct_once)


# --- From a file to a params model


T = TypeVar("T")


LARGEST_FILE = 1_000_000
"""Most bytes of a params file."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: the file is absent, not a text file, or not YAML.
    """
    try:
        text = _text(path)
    except FileNotFoundError as error:
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        close = closest(path.stem, known)
        raise UserError(
            str(path),
            "no such params file",
            allowed=", ".join(known),
            remedy=f"did you mean '{close}'?" if close else "name one of these or write the file",
        ) from error
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(
            str(path), f"not readable as YAML: {error}", remedy="correct the file"
        ) from error


def _text(path: Path) -> str:
    """A file's text.

    Raises:
        FileNotFoundError: it is absent.
        UserError: it is not a text file of at most ``LARGEST_FILE`` bytes.
    """
    remedy = "name the YAML file of the params"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "not a regular file"
            raise UserError(str(path), kind, allowed="a YAML file", remedy=remedy)
        if found.st_size > LARGEST_FILE:
            raise UserError(
                str(path),
                f"{found.st_size:,} bytes",
                allowed=f"a YAML file of {LARGEST_FILE:,} bytes at most",
                remedy=remedy,
            )
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(
            str(path),
            f"not text in UTF-8, at byte {error.start}",
            allowed="a YAML file in UTF-8",
            remedy="save it in UTF-8",
        ) from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            shortened(str(path)), f"not readable ({why})", allowed="a YAML file", remedy=remedy
        ) from error


def load(path: Path, model: type[T]) -> T:
    """Read a YAML file into ``model`` (a params model or a union of them).

    Raises:
        UserError: naming the file, the key, what was found and what is allowed.
    """
    return validate(read_yaml(path), model, str(path))


def option(kind: Any) -> Callable[[str], Any]:
    """``type`` of a command's option, which checks its word as params of this kind are checked."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))

    def read(text: str) -> Any:
        if (sign := unprintable(text)) is not None:
            raise argparse.ArgumentTypeError(f"the character {sign}; printable text is allowed")
        try:
            return adapter.validate_strings(text)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise argparse.ArgumentTypeError(f"{text[:80]!a}: {said}") from error

    return read


def validate(content: object, model: type[T], where: str) -> T:
    """Check ``content`` against ``model``; ``where`` names its file in the error.

    Raises:
        UserError: naming the file, the key, what was found and what is allowed.
    """
    if not isinstance(content, Mapping):
        found = "nothing" if content is None else f"{type(content).__name__} at the top"
        raise UserError(
            where, found, allowed="a mapping of keys", remedy="write its keys, such as name: value"
        )
    for key, found, allowed in _unusable(content, ""):
        raise UserError(
            f"{where}: {key}", found, allowed=allowed, remedy=f"correct the key in {where}"
        )
    adapter = TypeAdapter(model)
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        details = error.errors(include_url=False)
        message = "; ".join(_explain(detail, content) for detail in details[:3])
        more = f"; and {len(details) - 3} more" if len(details) > 3 else ""
        first = _key(details[0], content)
        raise UserError(
            f"{where}: {first}", message + more, remedy=f"correct the key in {where}"
        ) from error


def _unusable(value: object, key: str) -> Iterator[tuple[str, str, str]]:
    """Values that params may not hold, each with its key, what was found and what is allowed."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            below = f"{key}.{name}" if key else str(name)
            yield from _unusable(name, below)
            yield from _unusable(each, below)
    elif isinstance(value, list | tuple | set):
        for index, each in enumerate(value):
            yield from _unusable(each, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, f"{value}", "a finite number"
    elif isinstance(value, int) and abs(value) > LARGEST:
        digits = len(f"{value:x}")
        found = f"{value:,}" if digits < 30 else f"a number of more than {digits} digits"
        yield key, found, f"whole numbers up to {LARGEST:,}"
    elif isinstance(value, str) and (sign := unprintable(value)) is not None:
        yield key.encode("unicode_escape").decode(), f"the character {sign}", "printable text"


def _key(detail: ErrorDetails, content: object) -> str:
    """Dotted path of the faulty key, without pydantic's union tags."""
    shown: list[str] = []
    value: Any = content
    for part in detail["loc"]:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
            shown.append(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
            shown.append(f"[{part}]")
        elif detail["type"] in ("missing", "extra_forbidden") and part == detail["loc"][-1]:
            shown.append(str(part))
    return ".".join(shown).replace(".[", "[") or "(top)"


def _explain(detail: ErrorDetails, content: object) -> str:
    key = _key(detail, content)
    if detail["type"] == "missing":
        return f"key '{key}' is missing"
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}'"
    found, message = detail["input"], shortened(detail["msg"].removeprefix("Value error, "), 500)
    if isinstance(found, Mapping):  # An error of several keys, which the message names.
        return message
    return f"'{key}' is {shortened(repr(found))} ({type(found).__name__}), but: {message}"


def shortened(text: str, most: int = 120) -> str:
    """Text for an error, cut if it is too long for a line."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def closest(word: str, known: Iterable[str]) -> str | None:
    """Known word closest to ``word``, if any is close."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None
