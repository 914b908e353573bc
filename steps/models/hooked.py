"""A part of a network run in another way than its own forward pass, but with its hooks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

from torch import nn

T = TypeVar("T")


def run_hooked(module: nn.Module, function: Callable[..., T], *inputs: Any) -> T:
    """``function(module, *inputs)``, as if it were the module's forward pass.

    A block whose parts are called one by one must go through here, and so must a method of which
    another than ``forward`` computes: under FSDP weights are whole only between the hooks around
    a module's forward pass.
    """
    module.forward = partial(function, module)
    try:
        return cast(T, module(*inputs))
    finally:
        del module.forward
