"""Run a part of a network in another way than its own forward pass, under FSDP too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method

T = TypeVar("T")
_METHOD = "run_hooked"


def run_hooked(module: nn.Module, function: Callable[..., T], *inputs: Any) -> T:
    """``function(module, *inputs)``, as if it were the module's forward pass.

    Call the parts of a block through this function, and any method of a ``Method`` that computes,
    other than ``forward``: under FSDP weights are whole only during a registered forward method.
    """
    # A module that FSDP does not wrap has its weights at any time.
    run = getattr(module, _METHOD, None)
    return function(module, *inputs) if run is None else cast(T, run(function, *inputs))


def register_run_hooked(module: nn.Module) -> None:
    """Make ``run_hooked`` on a module, after ``fully_shard``, a forward method of FSDP."""

    def run(function: Callable[..., Any], *inputs: Any) -> Any:
        return function(module, *inputs)

    setattr(module, _METHOD, run)
    register_fsdp_forward_method(module, _METHOD)
