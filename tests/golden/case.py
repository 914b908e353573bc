"""A recorded case, and a comparison that counts what it compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

LOSS = 1e-5
"""Relative tolerance on losses and outputs in float32."""
GRADIENT = 1e-4
"""Relative to a tensor's largest value: gradients and final weights."""
RESOLUTION = 1e-7
"""Absolute: what float32 resolves at 1. Some final weights are zero but for that."""
SENSITIVITY = 2.0
"""Times the change that a case records for inputs moved by 1e-7: passes where GRADIENT is less."""
ROUNDING = 5e-2
"""Absolute, for what is mathematically zero: its value is the reference's rounding noise."""


class Case:
    """The content of a case folder. Every recorded tensor must be compared or fed, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = json.loads((folder / "case.json").read_text())
        tensors = folder / "tensors.safetensors"
        self.tensors: dict[str, Tensor] = load_file(tensors) if tensors.is_file() else {}
        self.used: set[str] = set()
        self.compared = 0

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return self.tensors[name]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """All tensors under a prefix, by what follows it."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        self.used.update(names)
        return {name.removeprefix(prefix): self.tensors[name] for name in names}

    def equal(self, ours: Tensor, name: str, tolerance: float = LOSS) -> None:
        """Compare with a recorded tensor, relative to its largest value."""
        self._close(ours, self[name], name, tolerance)

    def close(
        self,
        ours: Tensor,
        theirs: Tensor,
        name: str,
        tolerance: float,
        floor: float | Tensor = 0.0,
    ) -> None:
        """Compare two tensors, relative to the largest value of the second.

        ``floor`` is an absolute difference that passes in any case, of the tensor or of each of its
        elements: what rounding moves.
        """
        self._close(ours, theirs, name, tolerance, floor)

    def small(self, ours: Tensor, theirs: Tensor, name: str, bound: float | Tensor) -> None:
        """Compare loosely and absolutely: for gradients that are zero but for rounding."""
        self.compared += 1
        differs = (ours - theirs).abs()
        worst = differs[differs > bound]
        assert not worst.numel(), f"{name}: differs by {worst.max():.2e}"

    def number(self, ours: float, theirs: float, name: str, tolerance: float = LOSS) -> None:
        """Compare a number with a recorded one."""
        self.compared += 1
        bound = tolerance * max(abs(theirs), 1e-12)
        assert abs(ours - theirs) <= bound, f"{name}: {ours!r}, recorded {theirs!r}"

    def finish(self) -> None:
        """Fail if a recorded tensor was neither fed nor compared."""
        left = sorted(set(self.tensors) - self.used)
        assert not left, f"recorded but never used: {left}"

    def _close(
        self,
        ours: Tensor,
        theirs: Tensor,
        name: str,
        tolerance: float,
        floor: float | Tensor = 0.0,
    ) -> None:
        self.compared += 1
        assert ours.shape == theirs.shape, f"{name}: {ours.shape}, recorded {theirs.shape}"
        if not theirs.is_floating_point():
            assert torch.equal(ours.to(theirs.dtype), theirs), f"{name}: values differ"
            return
        scale = theirs.abs().max().item() or 1.0
        bound = torch.as_tensor(floor).clamp(min=tolerance * scale)
        differs = (ours.detach() - theirs).abs()
        worst = differs[differs > bound]
        assert not worst.numel(), (
            f"{name}: differs by {worst.max() / scale:.2e} of its largest value"
        )
