"""A network that a method uses and never trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Frozen(nn.Module, Generic[M]):
    """Holds a network in eval mode and without gradients.

    It follows its owner from device to device, and that is all: its weights are not among the
    owner's parameters, so that nothing optimises them or sends them between processes, and not in
    the owner's state dict, so that no checkpoint carries them.
    """

    def __init__(self, network: M) -> None:
        super().__init__()
        # A tuple, because nn.Module would register an attribute that is a module.
        self._network = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> M:
        """What is held."""
        return self._network[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
