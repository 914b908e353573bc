"""microsoft/unilm, beit and beit2: the transformer with a mask token and an output layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steps.models.official.naming import Naming


@dataclass(frozen=True)
class BEiTNaming(Naming):
    """Its state dicts carry an index of relative positions, which ours compute."""

    def convert(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the index."""
        learnt = {
            name: tensor
            for name, tensor in weights.items()
            if not name.endswith("relative_position_index")
        }
        return super().convert(learnt)


NAMING = BEiTNaming(((r"^(?!mask_token|lm_head\b)", "backbone."),))
