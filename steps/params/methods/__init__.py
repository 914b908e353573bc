"""Params of each method, found in the modules of this package: the union that a recipe takes."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Union, get_args

from pydantic import Field

from steps.params.methods.method import Family, Method

__all__ = ["FAMILIES", "METHODS", "Family", "MethodParams"]


def _models() -> Iterator[tuple[str, type[Method]]]:
    """Names of methods and their params models, by module and then in the order of the file."""
    for module in sorted(each.name for each in pkgutil.iter_modules(__path__)):
        namespace = vars(import_module(f"steps.params.methods.{module}"))
        for model in list(namespace.values()):
            if not isinstance(model, type) or not issubclass(model, Method):
                continue
            # A model that only shares fields with others names no method.
            if model.__module__ == namespace["__name__"] and "name" in model.__annotations__:
                for name in get_args(model.model_fields["name"].annotation):
                    yield name, model


METHODS: dict[str, type[Method]] = dict(_models())
"""Params model of each method by its name."""
FAMILIES: dict[str, Family] = {name: model.family for name, model in METHODS.items()}
"""Family of each method by its name."""

if TYPE_CHECKING:
    MethodParams = Method
else:
    MethodParams = Annotated[Union[tuple(METHODS.values())], Field(discriminator="name")]  # noqa: UP007
