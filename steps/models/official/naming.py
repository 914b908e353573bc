"""How one implementation names and shapes its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Naming:
    """Rules (pattern, replacement), tried in order: the first that changes a name is its last.

    ``forms`` are (pattern of an official name, function) for tensors whose axes are not ours.
    """

    rules: tuple[tuple[str, str], ...]
    forms: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()

    def our_name(self, official: str) -> str:
        """The name in our module."""
        for pattern, replacement in self.rules:
            renamed = re.sub(pattern, replacement, official)
            if renamed != official:
                return renamed
        return official

    def our_form(self, official: str, tensor: Tensor) -> Tensor:
        """A weight (or its gradient) with the axes that it has in our module."""
        for pattern, change in self.forms:
            if re.search(pattern, official):
                return change(tensor)
        return tensor

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A whole state dict, renamed and in our form; gradients may stand in for weights."""
        return {
            self.our_name(name): self.our_form(name, tensor) for name, tensor in weights.items()
        }
