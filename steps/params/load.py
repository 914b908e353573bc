"""Read a YAML file into a params model, and say in one line what is wrong with it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from steps.command import UserError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """Safe YAML with two changes: ``1e-4`` is a number (as in YAML 1.2), a key may stand once."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _construct_once(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(
            None, None, f"key '{twice[0]}' stands twice", node.start_mark
        )
    loader.flatten_mapping(node)
    return dict(yaml.SafeLoader.construct_mapping(loader, node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_once)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        UserError: the file is absent or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
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
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(str(path), f"not readable as YAML: {error}") from error


def load(path: Path, model: type[T]) -> T:
    """Read a YAML file into ``model`` (a params model or a union of them).

    Raises:
        UserError: naming the file, the key, what was found and what is allowed.
    """
    return validate(read_yaml(path), model, str(path))


def validate(content: object, model: type[T], where: str) -> T:
    """Check ``content`` against ``model``; ``where`` names its file in the error.

    Raises:
        UserError: naming the file, the key, what was found and what is allowed.
    """
    if not isinstance(content, Mapping):
        raise UserError(where, f"{type(content).__name__} at the top", allowed="a mapping of keys")
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


def _key(detail: ErrorDetails, content: object) -> str:
    """The dotted path of the key at fault, without the union tags that pydantic puts into it."""
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
    found = detail["input"]
    if isinstance(found, Mapping):  # of several keys together, which the message names
        return detail["msg"].removeprefix("Value error, ")
    return f"'{key}' is {found!r} ({type(found).__name__}), but: {detail['msg']}"


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` most likely meant, if any is near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None
