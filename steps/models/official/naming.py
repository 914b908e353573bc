"""How one implementation names its parameters, as rules of renaming."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Naming:
    """Rules (pattern, replacement), tried in order: the first that changes a name is its last."""

    rules: tuple[tuple[str, str], ...]

    def our_name(self, official: str) -> str:
        """The name in our module."""
        for pattern, replacement in self.rules:
            renamed = re.sub(pattern, replacement, official)
            if renamed != official:
                return renamed
        return official

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A whole state dict, renamed."""
        return {self.our_name(name): tensor for name, tensor in weights.items()}
